"""Compares adapters that were exported for llama.cpp, in the real engine, with PEFT on the same weights.

    python benchmarks/llama_cpp.py --base MODEL --gguf MODEL.gguf    # MODEL: the GGUF file, dequantised
    python benchmarks/llama_cpp.py --show

Installs node-llama-cpp by npm into --engine, where it is not there yet. Random adapters of a Llama are exported, and
the next token after 20 prompts is foretold by llama.cpp, on one thread, and by PEFT in float32. Compared are the
likeliest token, and the log-probabilities of the 20 tokens that PEFT finds likeliest. Controls are files that are wrong
on purpose, to show what the figures would say of them.
"""

import argparse
import json
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import loragen
from loragen.adapters.adapter import Lora
from loragen.adapters.settings import LoraSettings
from loragen.exporters.gguf_files import new_gguf
from loragen.exporters.gguf_model import convert_gguf
from loragen.exporters.gguf_names import gguf_package, placed

RESULTS = Path("benchmarks/results/llama_cpp.json")
PACKAGE = "node-llama-cpp"
VERSION = "3.21.1"
ASKED = 20
PROMPTS = (
    "The capital of France is",
    "Water boils at a temperature of",
    "She opened the door and saw",
    "The three primary colours are red,",
    "def add(a, b):\n    return",
    "In 1969, the first man walked on",
    "Dear Sir or Madam,\n\nI am writing to",
    "To make an omelette, you need",
    "The opposite of hot is",
    "My train was late because",
    "Once upon a time there was a",
    "The square root of 81 is",
    "He plays the piano and the",
    "A spider has eight",
    "Question: What colour is the sky?\nAnswer:",
    "The doctor told him to drink less",
    "Monday, Tuesday, Wednesday,",
    "import numpy as",
    "The meeting was moved from Friday to",
    "Trees lose their leaves in",
)
ADAPTERS: dict[str, dict[str, Any]] = {
    "q, v": {"r": 4, "lora_alpha": 8, "target_modules": ("q_proj", "v_proj")},
    "all, rsLoRA, patterns": {
        "r": 4,
        "lora_alpha": 6,
        "target_modules": ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"),
        "use_rslora": True,
        "rank_pattern": {"down_proj": 6, "k_proj": 2},
        "alpha_pattern": {"v_proj": 9, "gate_proj": 3, "layers.1.self_attn.o_proj": 20},
    },
}
MIXED = "all, rsLoRA, patterns"
RIGHT, UNFOLDED, UNMOVED = "LoRA file", "control: alpha = lora_alpha", "control: rows as in transformers"
STRENGTH = 0.04
"""Standard deviation of B; A keeps the size of its input."""


def random_adapter(base: Path, settings: dict[str, Any], seed: int) -> Lora:
    """An adapter of a Llama with random factors, far from small."""
    from loragen.bases.architecture import Architecture

    rng = torch.Generator().manual_seed(seed)
    known = LoraSettings(base_model_name_or_path=str(base), task_type="CAUSAL_LM", **settings)
    a, b = {}, {}
    for site, linear in Architecture.of(str(base), "CAUSAL_LM").linear.items():
        if known.targets(site):
            a[site] = torch.randn(known.rank(site), linear.in_features, generator=rng) * linear.in_features**-0.5
            b[site] = torch.randn(linear.out_features, known.rank(site), generator=rng) * STRENGTH
    return Lora(known, a, b)


def by_peft(base: Path, adapters: Mapping[str, Path], prompts: Sequence[Sequence[int]]) -> dict[str | None, Tensor]:
    """Log-probabilities (prompts, vocabulary) of the next token under each adapter, and under the base as `None`."""
    import peft
    from transformers import AutoModelForCausalLM

    found: dict[str | None, Tensor] = {}
    for name, folder in (None, None), *adapters.items():
        model: Any = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32).eval()
        if folder is not None:
            model = peft.PeftModel.from_pretrained(model, folder)
        with torch.no_grad():
            rows = [model(torch.tensor([ids])).logits[0, -1].log_softmax(-1) for ids in prompts]
        found[name] = torch.stack(rows)
    return found


def by_engine(engine: Path, model: Path, lora: Path | None, job: dict[str, Any]) -> tuple[list[int], Tensor]:
    """The likeliest next tokens in llama.cpp, and the log-probabilities (prompts, 20) of those that are asked for."""
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        file.write(json.dumps(job | {"model": str(model), "lora": None if lora is None else str(lora)}))
        file.flush()
        script = Path(__file__).with_suffix(".mjs")
        made = subprocess.run(
            ["node", str(script), str(engine / "node_modules" / PACKAGE), file.name],
            capture_output=True,
            text=True,
            check=True,
        )
    rows = json.loads(made.stdout.splitlines()[-1])
    return [row["best"] for row in rows], torch.tensor([row["probabilities"] for row in rows]).log()


def install(engine: Path) -> None:
    """Install the engine, unless it is there."""
    if (engine / "node_modules" / PACKAGE).is_dir():
        return
    engine.mkdir(parents=True, exist_ok=True)
    (engine / "package.json").write_text('{"private": true, "type": "module"}\n')
    flags = ["--no-audit", "--no-fund", "--ignore-scripts"]
    subprocess.run(["npm", "install", *flags, f"{PACKAGE}@{VERSION}"], cwd=engine, check=True)


def wrong_file(adapter: Lora, out: Path, *, kind: str) -> None:
    """A LoRA file with the scaling that llama.cpp's own converter states, or with rows in transformers' order."""
    found = placed(adapter, str(adapter.settings.base), is_local=True)
    types = gguf_package().GGUFValueType
    facts: dict[str, tuple[Any, ...]] = {
        "general.type": ("adapter", types.STRING),
        "adapter.type": ("lora", types.STRING),
    }
    if kind == UNFOLDED:
        facts["adapter.lora.alpha"] = (float(adapter.settings.lora_alpha), types.FLOAT32)
    with new_gguf(out, found.arch, facts) as writer:
        for site, place in found.places.items():
            a, b = adapter.scaled_factors(site)
            b = place.stored(adapter.lora_B[site]) if kind == UNFOLDED else b
            writer.add_tensor(f"{place.tensor}.lora_a", a.numpy())
            writer.add_tensor(f"{place.tensor}.lora_b", b.contiguous().numpy())
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()


def compared(
    met: tuple[list[int], Tensor], bare: Tensor, name: str | None, truth: Mapping[str | None, Tensor], asked: Tensor
) -> dict[str, float | int]:
    """Figures of a run: likeliest tokens that agree, errors in log-probability, and in what the adapter changes."""
    wanted, base = truth[name].gather(1, asked), truth[None].gather(1, asked)
    off, effect = (met[1] - wanted).abs(), wanted - base
    missed = ((met[1] - bare) - effect).abs()
    figures = {"off_mean": off.mean(), "off_most": off.max(), "effect_mean": effect.abs().mean()}
    figures |= {"missed_mean": missed.mean(), "missed_most": missed.max()}
    same = sum(int(a == b) for a, b in zip(met[0], truth[name].argmax(-1).tolist(), strict=True))
    changed = int((truth[name].argmax(-1) != truth[None].argmax(-1)).sum())
    return {"same": same, "changed": changed, **{key: round(float(value), 5) for key, value in figures.items()}}


def measure(base: Path, source: Path, engine: Path, work: Path) -> dict[str, Any]:
    """All rows; files are made in ``work``."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(base)
    prompts = [tokenizer(text)["input_ids"] for text in PROMPTS]
    adapters = {name: random_adapter(base, settings, 7) for name, settings in ADAPTERS.items()}
    folders = {name: work / f"adapter{i}" for i, name in enumerate(adapters)}
    for name, adapter in adapters.items():
        adapter.save(folders[name])
    truth = by_peft(base, folders, prompts)
    quantised = gguf_package().GGUFReader(source).tensors
    kinds = [each.tensor_type.name for each in quantised if len(each.shape) == 2]
    own = max(set(kinds), key=kinds.count)
    models = {"F32": convert_gguf(source, work / "f32.gguf", dtype="f32")}
    models |= {"F16": convert_gguf(source, work / "f16.gguf", dtype="f16"), own: source}
    rows = []
    for kind, model in models.items():
        for name in (None, *adapters):
            asked = truth[name].topk(ASKED).indices
            job = {"prompts": prompts, "asked": asked.tolist()}
            bare = by_engine(engine, model, None, job)
            runs = {"no adapter": bare} if name is None else {}
            if name is not None:
                for how, files in _made(adapters[name], folders[name], kind, model, work).items():
                    runs[how] = by_engine(engine, *files, job)
            for how, met in runs.items():
                rows.append({"model": kind, "adapter": name or "", "how": how})
                rows[-1] |= compared(met, bare[1], name, truth, asked)
                print(rows[-1], flush=True)
    return {
        "engine": f"{PACKAGE} {VERSION}",
        "model": source.name,
        "prompts": len(PROMPTS),
        "asked": ASKED,
        "rows": rows,
    }


def _made(adapter: Lora, folder: Path, kind: str, model: Path, work: Path) -> dict[str, tuple[Path, Path | None]]:
    """How an adapter is used → the model and the LoRA file for it."""
    opened = loragen.Adapter.load(folder)
    lora, merged = work / "lora.gguf", work / "merged.gguf"
    opened.export(lora, to="gguf", base_gguf=model, force=True)
    opened.export(merged, to="gguf-model", base_gguf=model, dtype="f32" if kind == "F32" else "f16", force=True)
    files: dict[str, tuple[Path, Path | None]] = {RIGHT: (model, lora), "merged model": (merged, None)}
    if kind == "F32" and adapter.settings.use_rslora:
        half = work / "half.gguf"
        opened.export(half, to="gguf", dtype="f16", force=True)
        files["LoRA file in f16"] = (model, half)
        for wrong in (UNFOLDED, UNMOVED):
            wrong_file(adapter, out := work / f"{len(files)}.gguf", kind=wrong)
            files[wrong] = (model, out)
    return files


def table(kept: Mapping[str, Any]) -> str:
    """The rows in Markdown."""
    lines = [
        "| model file | adapter | used as | same token | log-probability off by: mean, most | the adapter's effect | "
        "missed of it: mean, most |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in kept["rows"]:
        cells = [row["model"], row["adapter"] or "none", row["how"], f"{row['same']} of {kept['prompts']}"]
        cells.append(f"{row['off_mean']:.4f}, {row['off_most']:.4f}")
        has = bool(row["adapter"])
        cells.append(f"{row['effect_mean']:.2f}, {row['changed']} tokens" if has else "")
        cells.append(f"{row['missed_mean']:.4f}, {row['missed_most']:.4f}" if has else "")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", type=Path, help="folder of the dequantised model, as transformers has it")
    parser.add_argument("--gguf", type=Path, help="its GGUF file")
    parser.add_argument(
        "--engine", type=Path, default=Path("runs/node-llama-cpp"), help="where npm installs the engine"
    )
    parser.add_argument("--show", action="store_true", help="print the figures that are kept")
    options = parser.parse_args()
    if not options.show:
        if options.base is None or options.gguf is None:
            parser.error("--base and --gguf are needed, or --show")
        install(options.engine)
        torch.set_num_threads(1)
        with tempfile.TemporaryDirectory() as work:
            made = measure(options.base, options.gguf, options.engine, Path(work))
        RESULTS.write_text(json.dumps(made, indent=1) + "\n")
    print(table(json.loads(RESULTS.read_text())))


if __name__ == "__main__":
    main()
