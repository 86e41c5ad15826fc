"""A generated adapter and the task's own texts, which nobody has labelled."""
