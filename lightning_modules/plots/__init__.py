"""Plots of sound, scores and data sets, as matplotlib figures."""
