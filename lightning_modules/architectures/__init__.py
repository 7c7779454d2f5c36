"""The separation models, one paper family a file."""
