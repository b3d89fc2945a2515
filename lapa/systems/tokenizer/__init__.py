"""The tokenizer: a grid of discrete codes for a single frame."""
