"""Describe a task in words; get a LoRA."""

from importlib.metadata import version

__version__ = version("loragen")
