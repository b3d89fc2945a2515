"""What trained models are used for: labels, datasets, readings."""
