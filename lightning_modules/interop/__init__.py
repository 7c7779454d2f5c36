"""Import of other projects' weights, and export to other formats."""
