"""Decoders that come with lapa."""
