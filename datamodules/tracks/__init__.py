"""Tracks of a data set: index, layouts, headers, checks."""
