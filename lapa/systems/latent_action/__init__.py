"""The latent action model: discrete codes for what was done between two frames."""
