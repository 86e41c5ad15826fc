"""LoRA adapters: their files, coordinates and merges."""
