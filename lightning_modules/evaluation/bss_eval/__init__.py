"""The BSS Eval v4 engine."""
