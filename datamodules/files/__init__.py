"""Single audio files: header, decoding, memory mapping, resampling."""
