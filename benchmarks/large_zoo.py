"""What a zoo for a base of 8B parameters costs without the base: import, training, generation, each in a process.

    python benchmarks/large_zoo.py [--adapters 24] [--layers 32] [--set KEY=VALUE …]
    python benchmarks/large_zoo.py --show   # the table again, from the figures kept

The base is Llama-3-8B's config.json and nothing else: no weights of it are on the disk, and none are asked for. Its
adapters are synthetic, of rank 8 on query and value. They are related as trained ones may be: all read one subspace
of the inputs and write mixtures of a few shared directions, and each adds a part of its own. So a frame of rank 16
holds most of them, and principal directions of the experts say something. But nothing was learnt by them, and what is
generated from them does nothing useful: only shapes, times, memory and sizes mean something here.

Settings are those of configs/train, but for what `CHANGES` says. Everything lies in runs/large_zoo. Figures of the
full size go to benchmarks/results/large_zoo.json, those of another to runs/large_zoo. Memory is the peak resident
memory of a stage's process, pages of files that it maps included; on a busy machine CPU seconds say more than seconds.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

RESULTS = Path("benchmarks/results/large_zoo.json")
ROOT = Path("runs/large_zoo")
CONFIGS = Path(__file__).parent.parent / "configs" / "train"
ADAPTERS, RANK = 24, 8
ACTIONS = (
    "Answer questions about",
    "Summarise",
    "Rewrite in plain words what is said of",
    "Extract names and dates from texts on",
    "Translate into French texts on",
    "Sort letters that concern",
)
SUBJECTS = (
    "tax law",
    "kidney disease",
    "train timetables",
    "the care of roses",
    "chess openings",
    "roof insulation",
    "school admissions",
    "the history of Ghana",
)
TASK = "Answer a gardener's questions about pruning fruit trees."
CHANGES = {
    "sg": [],
    "icm": [
        "tasks=null",
        "icm.evidence=[description]",
        "reading_model=all-MiniLM-L6-v2",
        "icm.channels=[32,64,128]",
    ],
}
"""Values of the training configs that a base without weights, and experts without data, want otherwise; and three
blocks in place of the published twelve, which pad 23 codes to 4,096 numbers and take half a second a step for it."""


@dataclass(frozen=True)
class Shape:
    """Sizes of a Llama; by default those of Llama-3-8B."""

    layers: int = 32
    hidden: int = 4096
    heads: int = 32
    kv_heads: int = 8
    intermediate: int = 14336
    vocabulary: int = 128256

    @property
    def sites(self) -> dict[str, int]:
        """Site → its output features: query and value of every layer."""
        outs = {"q_proj": self.hidden, "v_proj": self.hidden // self.heads * self.kv_heads}
        return {
            f"model.layers.{layer}.self_attn.{name}": out for layer in range(self.layers) for name, out in outs.items()
        }


def descriptions(number: int) -> list[str]:
    """So many different tasks in words."""
    pairs = [f"{action} {subject}." for subject in SUBJECTS for action in ACTIONS]
    assert number <= len(pairs), f"there are {len(pairs)} descriptions"
    # A step that shares no divisor with their number meets each once, and mixes actions and subjects.
    return [pairs[7 * i % len(pairs)] for i in range(number)]


def write_base(folder: Path, shape: Shape) -> None:
    """Write the config of a base, and no weights."""
    from transformers import LlamaConfig

    LlamaConfig(
        architectures=["LlamaForCausalLM"],
        hidden_size=shape.hidden,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        intermediate_size=shape.intermediate,
        vocab_size=shape.vocabulary,
        max_position_embeddings=8192,
        dtype="bfloat16",
    ).save_pretrained(folder)


def write_adapters(root: Path, shape: Shape, number: int, *, seed: int = 0) -> list[Path]:
    """Write adapters of ``root/base`` with model cards, half of them in float16 and half in bfloat16.

    At every site all read from 12 shared directions of the inputs, by a mixture of their own, and write a mixture of
    6 shared matrices and one of their own; a little noise on A is what a frame of rank 16 cannot hold.
    """
    import torch

    from loragen.adapters.adapter import Lora
    from loragen.adapters.settings import LoraSettings

    rng = torch.Generator().manual_seed(seed)
    directions, matrices = 12, 6

    def drawn(*size: int) -> torch.Tensor:
        return torch.randn(*size, generator=rng)

    width = shape.hidden
    rows = {site: torch.linalg.qr(drawn(width, min(directions, width)))[0].T for site in shape.sites}
    writes = {site: drawn(matrices, out, RANK) / matrices**0.5 for site, out in shape.sites.items()}
    settings = LoraSettings(
        r=RANK,
        lora_alpha=16,
        target_modules=("q_proj", "v_proj"),
        base_model_name_or_path=str(root / "base"),
        task_type="CAUSAL_LM",
    )
    mixing = {site: drawn(RANK, len(some)) for site, some in rows.items()}
    folders = []
    for at, description in enumerate(descriptions(number)):
        shares, lora_A, lora_B = 1 + drawn(matrices), {}, {}
        dtype = (torch.float16, torch.bfloat16)[at % 2]
        for site, out in shape.sites.items():
            read = (mixing[site] + 0.5 * drawn(*mixing[site].shape)) @ rows[site] / RANK**0.5
            a = read + 0.1 * drawn(RANK, width) / width**0.5
            b = torch.einsum("m,mor->or", shares, writes[site]) + 0.5 * drawn(out, RANK)
            lora_A[site], lora_B[site] = a.to(dtype), (1e-2 * b).to(dtype)
        folders.append(root / "adapters" / f"expert-{at:02d}")
        card = f"---\nlicense: cc0-1.0\n---\n\n# Expert {at}\n\n{description}\n"
        Lora(settings, lora_A, lora_B).save(folders[-1], extra_files={"README.md": card})
    return folders


def stages(root: Path, adapters: Sequence[Path], changes: Sequence[str] = ()) -> dict[str, list[str]]:
    """Name of a stage → arguments of `loragen`; ``changes`` are values of both training configs."""
    zoo, sources = str(root / "zoo"), [str(folder) for folder in adapters]
    found = {"zoo import": ["zoo", "import", *sources, "--zoo", zoo, "--rank", "16", "--max-loss", "1"]}
    for kind, own in CHANGES.items():
        values = [f"zoo={zoo}", f"out={zoo}/generators/{kind}", *own, *changes]
        found[f"train {kind}"] = ["train", str(CONFIGS / f"{kind}.yaml"), *(p for v in values for p in ("--set", v))]
    for kind in CHANGES:
        made = str(root / "made" / kind)
        found[f"generate with {kind}"] = ["generate", TASK, "--generator", kind, "--zoo", zoo, "--out", made]
        found[f"check what {kind} made"] = ["check", made]
    return found


def measured(arguments: Sequence[str]) -> dict[str, float]:
    """Run this Python with arguments; seconds and peak memory of that process."""
    begun = time.monotonic()
    process = subprocess.Popen(
        [sys.executable, *arguments], env=os.environ | {"HF_HUB_OFFLINE": "1"}, stdout=subprocess.DEVNULL
    )
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{' '.join(arguments[:4])} … ended with status {process.returncode}")
    return {
        "seconds": round(time.monotonic() - begun, 1),
        "cpu_seconds": round(usage.ru_utime + usage.ru_stime, 1),
        "peak_gib": round(usage.ru_maxrss / 2**20, 2),
    }


def sizes(root: Path) -> dict[str, float]:
    """MiB on the disk."""
    parts = {
        "adapters as they came": root / "adapters",
        "experts of the zoo": root / "zoo" / "experts",
        **{f"generator {kind}": root / "zoo" / "generators" / kind for kind in CHANGES},
        **{f"adapter made by {kind}": root / "made" / kind for kind in CHANGES},
    }
    return {
        name: round(sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) / 2**20, 1)
        for name, folder in parts.items()
    }


def table(kept: dict[str, Any]) -> str:
    """The figures as Markdown."""
    lines = ["| stage | seconds | CPU seconds | peak memory |", "|---|---|---|---|"]
    lines += [
        f"| {name} | {row['seconds']:.0f} | {row['cpu_seconds']:.0f} | {row['peak_gib']:.1f} GiB |"
        for name, row in kept["stages"].items()
    ]
    lines += ["", "| on disk | MiB |", "|---|---|"]
    lines += [f"| {name} | {size:.0f} |" for name, size in kept["mib_on_disk"].items()]
    return "\n".join(lines)


def run(shape: Shape, number: int, changes: Sequence[str]) -> dict[str, Any]:
    """Write base and adapters, and time every stage on them."""
    shutil.rmtree(ROOT, ignore_errors=True)
    write = [__file__, "--write", "--adapters", str(number), "--layers", str(shape.layers)]
    found = {"write the adapters": measured(write)}
    adapters = sorted((ROOT / "adapters").iterdir())
    for name, arguments in stages(ROOT, adapters, changes).items():
        found[name] = measured(["-m", "loragen", *arguments])
        print(f"{name}: {found[name]}", flush=True)
    return {
        "base": asdict(shape) | {"files": sorted(file.name for file in (ROOT / "base").iterdir())},
        "adapters": number,
        "changes": [*(f"{kind}: {value}" for kind, values in CHANGES.items() for value in values), *changes],
        "processors": os.cpu_count(),
        "threads": os.environ.get("OMP_NUM_THREADS"),
        "versions": {name: version(name) for name in ("loragen", "torch", "transformers")},
        "stages": found,
        "mib_on_disk": sizes(ROOT),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--adapters", type=int, default=ADAPTERS)
    parser.add_argument("--layers", type=int, default=32)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="of both training configs")
    parser.add_argument("--show", action="store_true", help="print the table of the figures kept")
    # A process of its own, since a child's peak memory is at least what its parent has when it starts it.
    parser.add_argument("--write", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    shape = Shape(layers=arguments.layers)
    is_full = (shape, arguments.adapters, arguments.set) == (Shape(), ADAPTERS, [])
    results = RESULTS if is_full else ROOT / RESULTS.name
    if arguments.write:
        write_base(ROOT / "base", shape)
        write_adapters(ROOT, shape, arguments.adapters)
        return
    if not arguments.show:
        kept = run(shape, arguments.adapters, arguments.set)
        results.write_text(json.dumps(kept, indent=1) + "\n")
    print(table(json.loads(results.read_text())))


if __name__ == "__main__":
    main()
