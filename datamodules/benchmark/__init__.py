"""Benchmark of data loaders: Stemlab's, PyTorch's own, and those of other projects."""
