"""What a data set contains: index, layouts, headers, checks."""
