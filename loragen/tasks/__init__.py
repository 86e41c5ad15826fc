"""Tasks and their examples."""
