"""ICM-LoRA: the generator, its episodes, and its training on a zoo."""
