"""Layers and losses that systems and plugins share; needs torch alone."""
