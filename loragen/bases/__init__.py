"""Frozen base models that train, score and use adapters."""
