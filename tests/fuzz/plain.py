"""A model of plain linear modules under dotted names, behind the adapters."""

from collections.abc import Mapping

from torch import nn

SHAPES = {
    "layers.0.attn.q": (6, 5),
    "layers.0.attn.v": (4, 5),
    "layers.1.attn.q": (6, 5),
    "layers.1.attn.v": (4, 5),
    "layers.1.mlp.up": (7, 5),
    "layers.10.attn.q": (6, 5),
}
"""Its modules: (out, in)."""


class Plain(nn.Module):
    """Linear modules of some shapes (out, in)."""

    def __init__(self, shapes: Mapping[str, tuple[int, int]]) -> None:
        super().__init__()
        for name, (out_features, in_features) in shapes.items():
            *way, last = name.split(".")
            holder: nn.Module = self
            for part in way:
                if not hasattr(holder, part):
                    holder.add_module(part, nn.Module())
                holder = getattr(holder, part)
            holder.add_module(last, nn.Linear(in_features, out_features, bias=False))
