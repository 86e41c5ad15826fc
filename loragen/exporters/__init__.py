"""Adapters on disk: PEFT folders, cards, merged models, and checks of what loads them."""
