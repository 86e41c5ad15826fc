"""Zoos of expert adapters: on disk, built, imported and searched."""
