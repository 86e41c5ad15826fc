"""Mutated inputs of every kind: each ends in a result or in a LoragenError, within bounds of time and memory."""
