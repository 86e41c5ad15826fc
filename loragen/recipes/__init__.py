"""Training of adapters for tasks."""
