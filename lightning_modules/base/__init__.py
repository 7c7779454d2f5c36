"""Base classes of architectures."""
