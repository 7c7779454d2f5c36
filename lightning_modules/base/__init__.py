"""What architectures derive from."""
