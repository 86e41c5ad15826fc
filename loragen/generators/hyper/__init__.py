"""The hypernetwork: the generator, its training data, and its training on weights and through the frozen base."""
