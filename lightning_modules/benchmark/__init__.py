"""Benchmarks of training, separation and scoring, compared with other projects' code."""
