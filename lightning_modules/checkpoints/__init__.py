"""Saved models: writing, reading, the layout of the Hugging Face Hub."""
