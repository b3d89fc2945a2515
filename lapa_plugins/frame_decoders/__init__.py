"""Built-in frame decoders."""
