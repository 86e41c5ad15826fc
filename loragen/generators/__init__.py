"""Generators: from the condition of a task to adapters."""
