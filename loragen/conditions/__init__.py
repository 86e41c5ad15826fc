"""Conditions of generators: text embeddings and task vectors."""
