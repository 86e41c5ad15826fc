"""Generators that are brought up to date, and what is forgotten meanwhile."""
