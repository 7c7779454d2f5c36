"""Scores of separated tracks: BSS Eval v4, the MDX challenges' SDR, tables and files."""
