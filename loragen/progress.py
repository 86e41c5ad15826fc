"""Progress of long work: one callback type that the library calls and whoever shows it gives."""

from collections.abc import Callable

Progress = Callable[[str, int, int], None]
"""Called with the name of a stage, the number of its steps done, and their total."""


def silent(_stage: str, _done: int, _total: int) -> None:
    """Show nothing."""
