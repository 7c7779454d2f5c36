"""Everything about data: reading, drawing, augmenting."""
