"""One audio file: header, decoding, mapping into memory, resampling."""
