"""YAML configs: find, read, check, and build models from them."""
