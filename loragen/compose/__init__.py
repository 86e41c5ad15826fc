"""Several experts at run time: gates on the ranks of experts that stand side by side, static or per input.

A static composition is an ordinary adapter. A dynamic one is a folder with experts, gate tensors and a manifest, which
`load` reads; it is put on a base like an adapter.
"""

from loragen.compose.composed import Composed, load

__all__ = ["Composed", "load"]
