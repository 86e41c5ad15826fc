"""What is not for this room."""

from loragen.errors import LoragenError


class NotLeanError(LoragenError):
    """What is asked for, or what was met on the way, is left to the path with torch. No user ever sees it."""


def require(holds: bool, what: str) -> None:
    """Leave the rest to the path with torch unless something holds.

    Raises:
        NotLeanError: it does not.
    """
    if not holds:
        raise NotLeanError(what)
