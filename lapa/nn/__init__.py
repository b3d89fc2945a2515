"""Layers and losses that systems and plugins share; needs PyTorch and NumPy alone."""
