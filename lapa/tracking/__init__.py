"""Where a run's metrics go: ``metrics.jsonl`` always; Weights & Biases and TensorBoard when asked.

Names are ``stage/group/name``, such as ``val/recon/psnr_db``.
"""
