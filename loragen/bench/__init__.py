"""Ways to train against one another."""
