"""The registry of methods that compose experts: one row each, from which settings, help and use follow.

A new method is one file in `methods/` and one row of `ROWS`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from loragen.adapters.rank_gate import Gate
from loragen.compose.methods.arrow import Arrow, arrow_gates, arrow_shapes, make_arrow
from loragen.compose.methods.brainstacks import (
    Brainstacks,
    brainstacks_gates,
    brainstacks_shapes,
    make_brainstacks,
    router_of,
)
from loragen.compose.methods.description import Description, make_description
from loragen.compose.methods.mora import MoRA, make_mora, mora_gates, mora_shapes
from loragen.compose.methods.sema_router import SemaRouter, make_sema, sema_gates, sema_shapes
from loragen.compose.methods.smora import SMoRA, make_smora, smora_gates, smora_shapes
from loragen.compose.methods.uniform import Uniform, make_uniform
from loragen.compose.settings import ComposeSettings, Made, Making
from loragen.compose.text_rows import Router
from loragen.errors import ConfigError, shown

Needs = Literal["nothing", "description", "examples"]
"""What a method wants beside the experts: the task in words, or labelled texts of each expert's task."""
Shapes = dict[str, tuple[int | None, ...]]


@dataclass(frozen=True)
class Row:
    """One method. Those with ``gates`` are dynamic, all others static."""

    name: str
    about: str
    """A few words for the help."""
    good_for: str
    """When to take it."""
    source: str
    """Paper, by its arXiv number; empty for what has none."""
    settings: type[ComposeSettings]
    make: Callable[[Making, Any], Made]
    """From experts and settings of this method to a composition."""
    needs: Needs | Callable[[Any], Needs] = "nothing"
    """Beside the experts; or how that follows from the settings."""
    gates: Callable[..., dict[str, Gate]] | None = None
    """From experts, settings and tensors, and the texts of the batch where ``by_text``, to a gate a site."""
    shapes: Callable[[Any, Any], Shapes] | None = None
    """Names and shapes of the tensors of a dynamic composition."""
    by_text: bool = False
    """True if weights are computed from whole texts, which wants a text encoder."""
    router: Callable[[Any, Any], Router] | None = None
    """From settings and tensors to what weighs the experts by what the bare base makes of a text."""
    experimental: bool = False
    """True if it came out below equal shares in benchmarks/compose.py."""

    @property
    def is_dynamic(self) -> bool:
        """True if the gate depends on the input, so that the composition is no ordinary adapter."""
        return self.gates is not None

    def needs_with(self, settings: ComposeSettings) -> Needs:
        """What it wants under some settings."""
        return self.needs(settings) if callable(self.needs) else self.needs


ROWS = (
    Row("uniform", "all experts in equal shares", "a first try", "", Uniform, make_uniform),
    Row(
        "description",
        "weights by how near descriptions are to the task's, as SG-LoRA's",
        "one task that can be said in words",
        "2509.10535",
        Description,
        make_description,
        needs="description",
    ),
    Row(
        "arrow",
        "each token to the experts whose updates it excites the most",
        "mixed texts, with no data to train on",
        "2405.11157",
        Arrow,
        make_arrow,
        gates=arrow_gates,
        shapes=arrow_shapes,
    ),
    Row(
        "mora",
        "rank-1 atoms of all experts activate themselves; post hoc, or trained with 'train'",
        "mixed texts, with or without data",
        "2506.21035",
        MoRA,
        make_mora,
        needs=lambda settings: "examples" if settings.train else "nothing",
        gates=mora_gates,
        shapes=mora_shapes,
    ),
    Row(
        "smora",
        "each token to a few ranks, by a trained router that a bias keeps even",
        "mixed texts, with labelled ones to train on",
        "2501.15103",
        SMoRA,
        make_smora,
        needs="examples",
        gates=smora_gates,
        shapes=smora_shapes,
    ),
    Row(
        "brainstacks",
        "each text to the experts that were measured to help its like",
        "mixed texts, with few labelled ones of each task",
        "2604.01152",
        Brainstacks,
        make_brainstacks,
        needs="examples",
        gates=brainstacks_gates,
        shapes=brainstacks_shapes,
        by_text=True,
        router=router_of,
    ),
    Row(
        "sema_router",
        "each text weighs the experts at every site, by a trained router",
        "mixed texts, with labelled ones to train on",
        "2403.18886",
        SemaRouter,
        make_sema,
        needs="examples",
        gates=sema_gates,
        shapes=sema_shapes,
        by_text=True,
    ),
)


def rows() -> dict[str, Row]:
    """The rows by name."""
    return {row.name: row for row in ROWS}


def row_named(name: object) -> Row:
    """The row of a method.

    Raises:
        ConfigError: there is no such method.
    """
    row = rows().get(name) if isinstance(name, str) else None
    if row is None:
        raise ConfigError(f"There is no method {shown(name)}; choose one of {', '.join(rows())}.")
    return row
