"""Checks of a whole data set: clipping, silence, duplicates, loudness."""
