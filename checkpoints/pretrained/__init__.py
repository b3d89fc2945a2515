"""The small model that comes with the package; see checkpoints/README.md."""
