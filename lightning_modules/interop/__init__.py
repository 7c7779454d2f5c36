"""Import of other projects' weights, export to other formats."""
