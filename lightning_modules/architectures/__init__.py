"""Separation models, one file per paper family."""
