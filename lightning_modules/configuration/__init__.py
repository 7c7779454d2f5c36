"""From YAML to objects."""
