"""SG-LoRA: the generator, and its training on a zoo."""
