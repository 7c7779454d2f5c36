"""The embedded corpus: songs rendered from code, without any download."""
