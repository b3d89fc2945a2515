"""Recorded episodes on disk, packed frames, and the pairs drawn from them."""
