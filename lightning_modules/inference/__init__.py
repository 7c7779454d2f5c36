"""From a song to its stems."""
