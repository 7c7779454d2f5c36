"""Blocks that more than one part of the project uses."""
