"""The model families, found by name."""
