"""Facts of an adapter that was read from a folder, beside its settings and factors."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor


@dataclass(frozen=True, eq=False)
class Origin:
    """How a folder held an adapter."""

    notes: tuple[str, ...] = ()
    """Remarks for the user, such as keys that were renamed."""
    is_rewritten: bool = False
    """True if PEFT would not read the folder in the same way, since names or files are not its own."""
    saved_along: Mapping[str, Tensor] = field(default_factory=dict)
    """Weights of the base that stood beside the factors, by the name of the parameter, such as ``lm_head.weight``.

    They are no part of the adapter, and are to be equal to those of the base.
    """
