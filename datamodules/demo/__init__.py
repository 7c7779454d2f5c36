"""The demo corpus: songs synthesised by code, without any download."""
