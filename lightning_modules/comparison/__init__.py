"""Compare systems: scores, significance of differences, differences of configs."""
