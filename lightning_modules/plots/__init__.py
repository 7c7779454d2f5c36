"""Pictures of sound, scores and data sets."""
