"""Loaders side by side: Stemlab's own, an ordinary one, and those of other projects."""
