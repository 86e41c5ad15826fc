"""One base with many adapters, served: throughput beside other ways, memory, and time from description to disk.

    python benchmarks/serving.py [--seconds 5] [--rounds 3]
    python benchmarks/serving.py --show     # the tables again, from the figures kept

Clients ask for the embedding of one text under one of 50 adapters of the bundled base, drawn at random, as fast as they
are answered. Ways, measured in turn in every round: loragen's batches, in which every row has an adapter of its own;
one merged model alone, batched likewise, which no mixture can beat; 50 merged models, the one that is asked for; peft's
`set_adapter` on one model. The last two answer one request after the other, as they must where requests differ.

All of this is measured in one process, and the time from description to disk over HTTP. Figures are kept in
benchmarks/results/serving.json.
"""

import argparse
import json
import random
import resource
import shutil
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from starlette.testclient import TestClient
from torch import Tensor

import loragen
from loragen.bases.base import Base
from loragen.bases.open import open_base
from loragen.cli import console
from loragen.serving.app import make_app
from loragen.serving.batcher import Batcher, Embed
from loragen.serving.settings import Limits, ServeSettings
from loragen.serving.store import AdapterStore
from loragen.serving.texts import NOTHING

RESULTS = Path("benchmarks/results/serving.json")
ADAPTERS, CLIENTS, MANY, GENERATIONS = 50, (1, 8, 32), 1_000, 200
OURS, ALONE, MERGED, SET = "loragen, rows of all adapters", "one merged model alone", "50 merged models", "set_adapter"
TEXTS = [
    f"The {thing} in room {room} has been {state} since {day}."
    for thing in ("heating", "light", "door")
    for room in range(1, 9)
    for state in ("broken", "fine")
    for day in ("Monday", "last week")
]
Answer = Callable[[int, str], None]
"""Answers one request: the number of an adapter, and a text."""


@contextmanager
def ways(base: Base, folders: list[Path], merged: list[Base]) -> Iterator[dict[str, Answer]]:
    """All ways to answer."""
    store, batcher = AdapterStore(folders[0].parent, base, Limits()), Batcher(base)
    one = Batcher(merged[0])
    peft = PeftModel.from_pretrained(open_base(base.name).model, folders[0], adapter_name="0").eval()
    for number, folder in enumerate(folders[1:], 1):
        peft.load_adapter(folder, str(number))
    alone = threading.Lock()

    def rows(text: str) -> list[list[int]]:
        return base.tokenize([text], max_length=128)

    def ours(number: int, text: str) -> None:
        batcher.add(Embed(rows(text), store.get(folders[number].name).factors)).result()

    def single(_number: int, text: str) -> None:
        one.add(Embed(rows(text), NOTHING)).result()

    def in_turn(number: int, text: str) -> None:
        with alone, torch.inference_mode():
            merged[number].embed(rows(text))

    def switched(number: int, text: str) -> None:
        with alone, torch.inference_mode():
            peft.set_adapter(str(number))
            _pooled(peft, rows(text))

    yield {OURS: ours, ALONE: single, MERGED: in_turn, SET: switched}
    batcher.stop()
    one.stop()


def _pooled(model: Any, rows: list[list[int]]) -> Tensor:
    hidden = model(input_ids=torch.tensor(rows), attention_mask=torch.ones(1, len(rows[0]))).last_hidden_state
    return torch.nn.functional.normalize(hidden.mean(1), dim=-1)


def throughput(answer: Answer, clients: int, seconds: float) -> float:
    """Requests a second that so many clients get answered."""
    stop, counts = time.perf_counter() + seconds, [0] * clients

    def ask(client: int) -> None:
        rng = random.Random(client)
        while time.perf_counter() < stop:
            answer(rng.randrange(ADAPTERS), rng.choice(TEXTS))
            counts[client] += 1

    threads = [threading.Thread(target=ask, args=(client,)) for client in range(clients)]
    begun = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(counts) / (time.perf_counter() - begun)


def write_adapters(folder: Path) -> list[Path]:
    """Fifty adapters for other descriptions each."""
    zoo = loragen.Zoo.open()
    made = []
    for number, card in enumerate(list(zoo)[:ADAPTERS]):
        made.append(folder / f"adapter-{number}")
        loragen.generate(card.description, zoo=zoo, fallback=False).save(made[-1])
        console.say(f"adapter {number + 1} of {ADAPTERS}")
    return made


def memory_of_many(folders: list[Path], base: Base) -> dict[str, float]:
    """Megabytes that a thousand adapters take in the store's cache, and what the process grew by."""
    with tempfile.TemporaryDirectory() as place:
        root = Path(place)
        for number in range(MANY):
            shutil.copytree(folders[number % len(folders)], root / f"many-{number}")
        store = AdapterStore(root, base, Limits(cache=1_000_000_000))
        before = _resident()
        for name in store.folders.names():
            store.get(name)
        return {"cache": store.bytes / 1e6, "process": (_resident() - before) / 1e6}


def _resident() -> int:
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * resource.getpagesize()


def generation_times() -> dict[str, float]:
    """Milliseconds from a description to an adapter on disk, over HTTP, warm."""
    with tempfile.TemporaryDirectory() as place:
        settings = ServeSettings(adapters=Path(place))
        with TestClient(make_app(settings), base_url="http://localhost") as client:
            taken = []
            for number in range(GENERATIONS + 5):
                asked = {"description": f"Sort letters to office {number} by what they ask for.", "name": f"a{number}"}
                begun = time.perf_counter()
                answer = client.post("/v1/adapters", json=asked | {"labels": ["a permit", "a refund"]})
                taken.append(1000 * (time.perf_counter() - begun))
                assert answer.status_code in (201, 422), answer.text
    warm = sorted(taken[5:])
    return {"p50": statistics.median(warm), "p99": warm[int(0.99 * len(warm))]}


def measure(seconds: float, rounds: int) -> dict[str, Any]:
    """All figures."""
    base = open_base(loragen.Zoo.open().manifest.base)
    with tempfile.TemporaryDirectory() as place:
        folders = write_adapters(Path(place))
        merged = []
        for number, folder in enumerate(folders):
            target = loragen.Adapter.load(folder).merge(Path(place) / f".merged-{number}")
            merged.append(open_base(str(target)))
        found: dict[str, dict[str, list[float]]] = {}
        with ways(base, folders, merged) as answers:
            for _ in range(rounds):
                for clients in CLIENTS:
                    for name, answer in answers.items():
                        rate = throughput(answer, clients, seconds)
                        found.setdefault(name, {}).setdefault(str(clients), []).append(round(rate, 1))
                        console.say(f"{name}, {clients} clients: {rate:.0f} a second")
        memory = memory_of_many(folders, base)
    return {"throughput": found, "memory": memory, "generation": generation_times()}


def tables(figures: Mapping[str, Any]) -> str:
    """Everything as Markdown."""
    head = [f"{clients} client{'s' * (clients > 1)}" for clients in CLIENTS]
    lines = [f"| texts a second, median of the rounds | {' | '.join(head)} |", "|---" * (len(head) + 1) + "|"]
    medians = {
        name: [statistics.median(rates[str(clients)]) for clients in CLIENTS]
        for name, rates in figures["throughput"].items()
    }
    lines += [f"| {name} | {' | '.join(f'{rate:.0f}' for rate in rates)} |" for name, rates in medians.items()]
    for other in (ALONE, MERGED, SET):
        ratios = [ours / its for ours, its in zip(medians[OURS], medians[other], strict=True)]
        lines.append(f"| the first divided by {other} | {' | '.join(f'{ratio:.2f}' for ratio in ratios)} |")
    memory, generation = figures["memory"], figures["generation"]
    lines += [
        "",
        "| | |",
        "|---|---|",
        f"| {MANY:,} adapters in memory | {memory['cache']:.0f} MB (the process grew by {memory['process']:.0f} MB) |",
        f"| description to adapter on disk, warm, p50 | {generation['p50']:.0f} ms |",
        f"| p99 | {generation['p99']:.0f} ms |",
    ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=5.0, help="of a measurement")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--show", action="store_true", help="the tables again, from the figures kept")
    arguments = parser.parse_args()
    if not arguments.show:
        figures = measure(arguments.seconds, arguments.rounds)
        RESULTS.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    print(tables(json.loads(RESULTS.read_text(encoding="utf-8"))))


if __name__ == "__main__":
    main()
