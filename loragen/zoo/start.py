"""The file of a zoo for its frame and start, and the frame in which its experts are vectors."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import save

from loragen.adapters.adapter import Lora
from loragen.adapters.frame import Frame
from loragen.adapters.tensor_file import read_tensors
from loragen.errors import ZooError, cut
from loragen.files import atomic_write
from loragen.recipes.expert import Start
from loragen.recipes.methods.lora_sb import GRADIENTS
from loragen.zoo.zoo import Zoo

START = "start.safetensors"
"""File of a zoo for its frame and start."""


def write_start(zoo: Path, start: Start) -> None:
    """Settle the frame and start of a zoo to be built."""
    tensors = {f"{site}.lora_A": a.contiguous() for site, a in start.lora_A.items()}
    tensors |= {f"{site}.lora_B": b.contiguous() for site, b in start.lora_B.items()}
    atomic_write(zoo / START, save(tensors))


def read_start(zoo: Path) -> Start:
    """The frame and start that a zoo's experts were trained from.

    Raises:
        ZooError: the file is missing, damaged or replaced.
    """
    tensors, _ = read_tensors(zoo / START)
    sites = [name.removesuffix(".lora_A") for name in tensors if name.endswith(".lora_A")]
    if not sites or {f"{s}.lora_{factor}" for s in sites for factor in "AB"} != tensors.keys():
        raise ZooError(f"{cut(zoo / START)} does not hold lora_A and lora_B of the same sites; restore it.")
    start = Start({s: tensors[f"{s}.lora_A"] for s in sites}, {s: tensors[f"{s}.lora_B"] for s in sites})
    for site in sites:
        a, b = start.lora_A[site], start.lora_B[site]
        if a.ndim != 2 or b.ndim != 2 or len(a) != b.shape[1] or not a.dtype == b.dtype == torch.float32:
            raise ZooError(f"{cut(zoo / START)} holds factors of {site} that do not go together; restore it.")
    return start


def frame_of(zoo: Zoo, adapters: Sequence[Lora]) -> Frame:
    """The frame of a zoo's experts: of best fit or, where they were trained within bases of both sides, these bases.

    Args:
        zoo: the zoo.
        adapters: of its experts.

    Raises:
        ZooError: there is no adapter, or the bases are missing, damaged or replaced.
        AdapterError: adapters disagree on the shape of a site.
    """
    frame = Frame.fit(adapters)
    if zoo.manifest.frame != GRADIENTS:
        return frame
    bases = read_start(zoo.root).lora_B
    if strange := [site for site, out in frame.out_features.items() if site not in bases or len(bases[site]) != out]:
        raise ZooError(f"{cut(zoo.root / START)} does not fit the experts at {strange[0]}; restore it.")
    return replace(frame, lora_B={site: bases[site] for site in frame.lora_A})
