"""The embedded corpus: songs synthesised by code, without any download."""
