"""The stages of `big_zoos`: a zoo of synthetic experts is written, opened, searched, generated from, and grows."""

import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from typing import Any

MIXED, NOISE, EMBEDDING_NOISE = 3, 0.3, 0.6
"""Experts in a mixture; noise in units of the experts' deviation; length of the noise on an embedding of length 1."""
QUERIES, ADDED = 40, 5


def experts(size: int, *, seed: int) -> Iterator[Any]:
    """Cards, adapters and embeddings of synthetic experts; one of the bundled zoo's descriptions each, and a number."""
    import torch
    import torch.nn.functional as F

    from loragen.adapters.frame import Frame
    from loragen.conditions.text_encoder import TextEncoder
    from loragen.zoo.card import Card, Imported
    from loragen.zoo.expert_index import ExpertIndex
    from loragen.zoo.shards import Shared
    from loragen.zoo.zoo import Zoo

    zoo = Zoo.open().select(splits={"experts"})
    adapters = [zoo.adapter(name) for name in zoo.ids]
    frame, shared = Frame.fit(adapters), Shared.of(adapters[0])
    coordinates = torch.stack([frame.coordinates(adapter) for adapter in adapters])
    spread = coordinates.std(0)
    embeddings, cards = ExpertIndex.of(zoo, TextEncoder.load()).index.vectors, list(zoo)
    facts = Imported(r=4, lora_alpha=4, use_rslora=False, energy_kept=1.0, missing=())
    rng = torch.Generator().manual_seed(seed)
    for number in range(size):
        at = torch.randperm(len(cards), generator=rng)[:MIXED]
        shares = torch.rand(MIXED, generator=rng) ** 2
        shares = shares / shares.sum()
        noise = NOISE * spread * torch.randn(len(spread), generator=rng)
        row = (shares @ coordinates[at] + noise).bfloat16()
        drawn = EMBEDDING_NOISE / embeddings.shape[1] ** 0.5 * torch.randn(embeddings.shape[1], generator=rng)
        first, second = (cards[each] for each in at[:2].tolist())
        card = Card(
            id=f"expert-{seed}-{number:06}",
            split="experts",
            description=f"{first.description} {second.description} ({number})",
            labels=first.labels,
            family=first.family,
            kind=first.kind,
            licence=first.licence,
            base=first.base,
            base_hash=first.base_hash,
            provenance=facts,
            versions={},
        )
        yield card, shared.adapter(row), F.normalize(F.normalize(shares @ embeddings[at], dim=0) + drawn, dim=0)


def write(root: Path, size: int) -> dict[str, float]:
    """Write a packed zoo with its embeddings."""
    import numpy as np

    from loragen.conditions.text_encoder import TextEncoder
    from loragen.zoo.card import ZOO_MANIFEST
    from loragen.zoo.card_table import TABLE, set_embedded, writing
    from loragen.zoo.embedding_table import EmbeddingTable
    from loragen.zoo.pack import write_packed
    from loragen.zoo.zoo import Zoo

    shutil.rmtree(root, ignore_errors=True)
    root.mkdir(parents=True)
    manifest = Zoo.open().manifest.model_copy(update={"folds": None})
    (root / ZOO_MANIFEST).write_text(manifest.to_yaml())
    drawn: list[Any] = []

    def told() -> Iterator[Any]:
        for card, adapter, embedding in experts(size, seed=0):
            drawn.append(embedding[None])
            yield card, adapter

    write_packed(root, told())
    encoder = TextEncoder.load()
    rows = np.arange(size)
    EmbeddingTable.of(root, encoder).write(rows, rows, drawn)
    with writing(root / TABLE) as table:
        set_embedded(table, encoder.key, size)
    return {name: round(value, 1) for name, value in sizes(root).items()}


def sizes(root: Path) -> dict[str, float]:
    """MB on the disk by part of a zoo."""
    parts = {"shards": "shards/*", "cards": "experts.sqlite", "embeddings": "embeddings/*/*.f32"}
    return {f"{name}_mb": sum(f.stat().st_blocks for f in root.glob(at)) * 512 / 1e6 for name, at in parts.items()}


def timed(call: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds of a call, and what it returned."""
    begun = time.perf_counter()
    found = call()
    return time.perf_counter() - begun, found


def opened(root: Path) -> tuple[Any, Any, Any]:
    """The experts of a zoo, their index and the encoder."""
    from loragen.conditions.text_encoder import TextEncoder
    from loragen.zoo.expert_index import ExpertIndex
    from loragen.zoo.zoo import Zoo

    zoo, encoder = Zoo.open(root).select(splits={"experts"}), TextEncoder.load()
    return zoo, ExpertIndex.of(zoo, encoder), encoder


def asked() -> list[str]:
    """Descriptions of tasks that are there for validation."""
    from loragen.zoo.zoo import Zoo

    return [text for card in Zoo.open().select(splits={"validation"}) for text in card.descriptions][:QUERIES]


def index(root: Path, _size: int) -> dict[str, float]:
    """Make the lists, and say what searching needs on the disk."""
    seconds, (_, library, _) = timed(lambda: opened(root))
    vectors = 4 * library.index.size * len(library.zoo) / 1e6
    lists = sum(file.stat().st_size for file in root.glob("embeddings/*/lists.safetensors")) / 1e6
    return {"make_s": seconds, "index_mb": vectors + lists, "lists_mb": lists}


def open_zoo(root: Path, _size: int) -> dict[str, float]:
    """Open a zoo, select, take its fingerprint, read a card and an adapter, open its index."""
    from loragen.conditions.text_encoder import TextEncoder
    from loragen.zoo.expert_index import ExpertIndex
    from loragen.zoo.zoo import Zoo

    encoder = TextEncoder.load()
    zoo_s, zoo = timed(lambda: Zoo.open(root).select(splits={"experts"}))
    print_s, _ = timed(lambda: zoo.fingerprint)
    name = zoo.ids[len(zoo) // 2]
    card_s, _ = timed(lambda: zoo.card(name))
    adapter_s, _ = timed(lambda: zoo.adapter(name))
    index_s, _ = timed(lambda: ExpertIndex.of(zoo, encoder))
    return {
        "open_s": zoo_s + index_s,
        "zoo_s": zoo_s,
        "index_s": index_s,
        "fingerprint_s": print_s,
        "card_s": card_s,
        "adapter_s": adapter_s,
    }


def search(root: Path, _size: int) -> dict[str, float]:
    """Search with embeddings at hand, and compare with what is nearest among all."""
    import torch

    _, library, encoder = opened(root)
    queries = encoder.encode(asked())
    found = library.index
    first, _ = timed(lambda: found.search(queries[0], 10))
    begun, times, hits = time.process_time(), [], []
    for query in queries:
        seconds, near = timed(lambda query=query: found.search(query, 10))
        times.append(seconds)
        hits.append({hit.id for hit in near})
    cpu = (time.process_time() - begun) / len(queries)
    nearest = torch.cat([part @ queries.T for part in found.vectors.split(10_000)]).topk(10, dim=0).indices.T.tolist()
    shared = [len({found.ids[at] for at in row} & met) / 10 for row, met in zip(nearest, hits, strict=True)]
    return {
        "search_ms": 1e3 * median(times),
        "slowest_ms": 1e3 * max(times),
        "cpu_ms": 1e3 * cpu,
        "first_ms": 1e3 * first,
        "recall_at_10": sum(shared) / len(shared),
    }


def generate(name: str) -> Callable[[Path, int], dict[str, float]]:
    """Open a generator, and generate for tasks in words."""

    def run(root: Path, _size: int) -> dict[str, float]:
        import torch

        from loragen.conditions.condition import Conditioner, Evidence
        from loragen.conditions.text_encoder import TextEncoder
        from loragen.generators.registry import open_generator
        from loragen.zoo.zoo import Zoo

        encoder = TextEncoder.load()
        encoder.encode(["What loads the encoder."])
        load_s, generator = timed(lambda: open_generator(name, Zoo.open(root), encoder))

        def one(text: str) -> Any:
            return generator.generate(Conditioner(encoder).condition(Evidence(text)), rng=torch.Generator())

        texts = asked()
        first, _ = timed(lambda: one(texts[0]))
        times = [timed(lambda text=text: one(text))[0] for text in texts[1:]]
        return {"load_s": load_s, "first_s": first, "generate_s": median(times), "slowest_s": max(times)}

    return run


def regress(root: Path, _size: int) -> dict[str, float]:
    """Fit a ridge regression: what it keeps is read by the stage that generates."""
    from loragen.conditions.text_encoder import TextEncoder
    from loragen.generators.registry import open_generator
    from loragen.zoo.zoo import Zoo

    encoder = TextEncoder.load()
    seconds, _ = timed(lambda: open_generator("ridge", Zoo.open(root), encoder))
    kept = sum(file.stat().st_size for file in root.glob("ridge/*")) / 1e6
    return {"fit_s": seconds, "kept_mb": kept}


def train(root: Path, _size: int) -> dict[str, float]:
    """Train sg: read the experts, and one epoch of 100 steps of 64."""
    from loragen.conditions.text_encoder import TextEncoder
    from loragen.files import write_folder
    from loragen.generators.sg import fit
    from loragen.zoo.zoo import Zoo

    out = root / "generators" / "sg"
    config = fit.SGTrainConfig(generator="sg", zoo=root, encoder="all-MiniLM-L6-v2", out=out, epochs=1)
    zoo, encoder = Zoo.open(root).select(splits={"experts"}), TextEncoder.load()
    reading, read = [], fit.read_experts

    def watched(*arguments: Any, **named: Any) -> Any:
        seconds, found = timed(lambda: read(*arguments, **named))
        reading.append(seconds)
        return found

    fit.read_experts = watched
    whole, (generator, _) = timed(lambda: fit.fit_sg(config, zoo, encoder))
    (read_s,) = reading
    write_folder(out, generator.files())
    file = out / "generator.safetensors"
    return {
        "epoch_s": whole - read_s,
        "read_s": read_s,
        "generator_mb": file.stat().st_size / 1e6,
    }


def add(root: Path, size: int) -> dict[str, float]:
    """Add experts, one after another, to a zoo that is opened for each; and find each."""
    from loragen.conditions.text_encoder import TextEncoder
    from loragen.zoo.expert_index import ExpertIndex
    from loragen.zoo.insert_expert import insert_expert
    from loragen.zoo.zoo import Zoo

    encoder = TextEncoder.load()
    encoder.encode(["What loads the encoder."])
    times = []
    there = len(Zoo.open(root))
    for number, (card, adapter, _) in enumerate(experts(ADDED, seed=size + there), 1):
        seconds, zoo = timed(lambda c=card, a=adapter: insert_expert(Zoo.open(root), c, a, encoder=encoder))
        times.append(seconds)
        assert len(zoo) == there + number
        (hit,) = ExpertIndex.of(zoo, encoder).index.search(encoder.encode([card.description])[0], 1)
        assert hit.id == card.id, (hit, card.id)
    return {"add_s": median(times), "slowest_s": max(times)}


STAGES: dict[str, Callable[[Path, int], dict[str, float]]] = {
    "write": write,
    "index": index,
    "open": open_zoo,
    "search": search,
    "generate with topk": generate("topk"),
    "fit ridge": regress,
    "generate with ridge": generate("ridge"),
    "train sg": train,
    "generate with sg": generate("sg"),
    "add": add,
}
