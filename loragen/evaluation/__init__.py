"""Judging adapters on labelled tasks."""
