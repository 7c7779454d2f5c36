"""Thin command-line shells over the library."""
