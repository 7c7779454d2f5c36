"""Decoded tracks and per-file facts that are kept between runs."""
