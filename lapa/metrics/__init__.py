"""Measures of pictures and of codes, on arrays alone."""
