"""Training: the loop, its guards, its checkpoints; it knows no system by name."""
