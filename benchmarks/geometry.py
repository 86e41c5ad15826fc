"""How much of an expert's weights the others tell; what that is worth in accuracy it does not say.

    python benchmarks/geometry.py [--zoo zoo/minilm]   # seconds
    python benchmarks/geometry.py --show               # the tables again, from the figures kept

An expert's offset is what training added to where it began. Each is predicted from the offsets of other experts, once
with the rest of its family among them (near) and once without (far): by a merge of the 8 whose texts are most like its
own, and by the regression on the offset itself, which no generator can know. Texts are embedded by the zoo's base;
figures go to benchmarks/results/geometry.json, by where the zoo's experts began.
"""

import argparse
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from loragen.adapters.adapter import Lora
from loragen.bases.base import Base
from loragen.generators.hyper.data import ExpertStarts
from loragen.zoo.start import frame_of
from loragen.zoo.zoo import Zoo

RESULTS = Path("benchmarks/results/geometry.json")
TOP_K, TEMPERATURE, PENALTY = 8, 0.1, 0.3
TOKENS = 64


def offsets(zoo: Zoo) -> Tensor:
    """What training added to each expert, (n, d)."""
    frame = frame_of(zoo, [zoo.adapter(expert) for expert in zoo.ids])
    ends = torch.stack([frame.coordinates(zoo.adapter(expert)) for expert in zoo.ids])
    return ends - ExpertStarts.of(zoo, frame).experts


def masks(zoo: Zoo) -> dict[str, Tensor]:
    """Pairs of experts (n, n) by what they have in common."""

    def alike(name: str) -> Tensor:
        values = [getattr(card, name) or card.id for card in zoo]
        return torch.tensor([[one == other for other in values] for one in values])

    family, kind, domain = (alike(name) for name in ("family", "kind", "domain"))
    return {
        "one family": family & ~torch.eye(len(zoo), dtype=torch.bool),
        "one kind, two families": kind & ~family,
        "one domain, two families": domain & ~family,
        "nothing in common": ~kind & ~family & ~domain,
    }


def readings(zoo: Zoo, base: Base) -> dict[str, Tensor]:
    """What tells experts apart, as unit vectors (n, h)."""

    def embedded(adapter: Lora | None, texts: Callable[[Any], tuple[str, ...]]) -> Tensor:
        with base.adapted(adapter):
            encoded = [base.encode(base.tokenize(texts(card), max_length=TOKENS)).mean(0) for card in zoo]
        return F.normalize(torch.stack(encoded), dim=1)

    descriptions = embedded(None, lambda card: card.descriptions)
    labels = embedded(None, lambda card: card.labels)
    return {
        "descriptions": descriptions,
        "descriptions, through the multi-task LoRA": embedded(zoo.multitask(), lambda card: card.descriptions),
        "label names": labels,
        "descriptions and label names": F.normalize(torch.cat([descriptions, labels], 1), dim=1),
    }


def merged(vectors: Tensor, allowed: Tensor) -> Tensor:
    """Weights (n, n) of the merge of those most alike."""
    similarity = (vectors @ vectors.T).masked_fill(~allowed, -2.0)
    kept = similarity.topk(TOP_K, dim=1)
    return torch.zeros_like(similarity).scatter(1, kept.indices, torch.softmax(kept.values / TEMPERATURE, 1))


def regressed(values: Tensor, allowed: Tensor) -> Tensor:
    """Weights (n, n) of the ridge regression of each row on those that are allowed."""
    gram = values @ values.T
    weights = torch.zeros_like(gram)
    for row, mask in enumerate(allowed):
        at = mask.nonzero()[:, 0]
        penalised = gram[at][:, at] + PENALTY * gram.diag().mean() * torch.eye(len(at))
        weights[row, at] = torch.linalg.solve(penalised, gram[at, row])
    return weights


def measured(zoo: Zoo, base: Base) -> dict[str, Any]:
    """All figures."""
    values, pairs = offsets(zoo), masks(zoo)
    directions = F.normalize(values, dim=1)
    cosines = directions @ directions.T

    def told(weights: Tensor) -> float:
        return round(float((F.normalize(weights @ values, dim=1) * directions).sum(1).mean()), 3)

    others = ~torch.eye(len(zoo), dtype=torch.bool)
    settings = {"near": others, "far": others & ~pairs["one family"]}
    rows = {"mean of the others": {name: told(mask / mask.sum(1, keepdim=True)) for name, mask in settings.items()}}
    for name, vectors in readings(zoo, base).items():
        rows[name] = {setting: told(merged(vectors, mask)) for setting, mask in settings.items()}
    rows["the offset itself"] = {setting: told(regressed(values, mask)) for setting, mask in settings.items()}
    return {
        "experts": len(zoo),
        "norm": round(float(values.norm(dim=1).mean()), 2),
        "cosines": {
            name: {"pairs": int(mask.sum()) // 2, "cosine": round(float(cosines[mask].mean()), 3)}
            for name, mask in pairs.items()
        },
        "told": rows,
    }


def tables(start: str) -> str:
    """The figures kept of a zoo whose experts began at ``start``, as Markdown."""
    figures: Mapping[str, Any] = _kept()[start]
    lines = ["| two experts' offsets, with | pairs | cosine |", "|---|---|---|"]
    lines += [f"| {name} | {row['pairs']} | {row['cosine']:.3f} |" for name, row in figures["cosines"].items()]
    lines += ["", "| cosine of an offset with what is predicted from | near | far |", "|---|---|---|"]
    lines += [f"| {name} | {row['near']:.3f} | {row['far']:.3f} |" for name, row in figures["told"].items()]
    return "\n".join(lines)


def _kept() -> dict[str, Any]:
    return json.loads(RESULTS.read_text()) if RESULTS.exists() else {}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--zoo", type=Path, default=Path("zoo/minilm"))
    parser.add_argument("--show", action="store_true", help="print the tables of the last run")
    arguments = parser.parse_args()
    if not arguments.show:
        zoo = Zoo.open(arguments.zoo)
        figures = measured(zoo.select(splits={"experts"}), zoo.load_base())
        RESULTS.write_text(json.dumps(_kept() | {zoo.manifest.start: figures}, indent=1) + "\n")
    print("\n\n".join(f"experts began at: {start}\n\n{tables(start)}" for start in _kept()))


if __name__ == "__main__":
    main()
