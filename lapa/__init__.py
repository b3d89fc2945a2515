"""Latent actions from game video."""
