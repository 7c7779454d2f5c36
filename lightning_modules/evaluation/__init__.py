"""Scores of estimates: BSS Eval v4, uSDR, other metrics, oracles, tables and files."""
