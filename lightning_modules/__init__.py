"""Everything about a model: architectures, training, separation, scoring."""
