"""Test of exact resuming: kill runs at random moments, and compare with undisturbed runs."""
