"""Systems side by side: their scores, what the differences are worth, how their configs differ."""
