"""Zoos and generators whose files are missing, cut off, replaced or of another kind: one error that names the file."""

import os
import shutil
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from loragen.conditions.condition import Condition
from loragen.conditions.text_encoder import TextEncoder
from loragen.config import dump_yaml, read_yaml
from loragen.errors import ConfigError, GeneratorError, LoragenError, ZooError
from loragen.generators.registry import open_generator
from loragen.generators.sg.fit import SGTrainConfig, fit_sg
from loragen.generators.sg.model import SG, SGConfig
from loragen.zoo.card import Card, Manifest
from loragen.zoo.model_card import LARGEST, ModelCard
from loragen.zoo.start import read_start
from loragen.zoo.zoo import Zoo

BAD = ("x" * 10_000, 5, -1, 10**30, float("nan"), float("inf"), None, True, [], [1], {}, {"a": 1}, {1: 2}, "", [["x"]])
"""Values of which at least some fit no field."""
CHANGES = {
    "missing": lambda path: path.unlink(),
    "empty": lambda path: path.write_bytes(b""),
    "cut off": lambda path: path.write_bytes(path.read_bytes()[:-7]),
    "text": lambda path: path.write_text("a: [" * 100),
    "a folder": lambda path: (path.unlink(), path.mkdir()),
    "a pipe": lambda path: (path.unlink(), os.mkfifo(path)),
    "other names": lambda path: save_file({"weight": torch.ones(2, 3)}, path),
    "no tensors": lambda path: save_file({}, path),
    "not finite": lambda path: rewritten(path, lambda value: torch.full_like(value, float("nan"))),
    "too large for float32": lambda path: rewritten(path, lambda value: torch.full_like(value.double(), 1e300)),
    "other shapes": lambda path: rewritten(path, lambda value: torch.ones(7, 5)),
    "flat": lambda path: rewritten(path, lambda value: value.flatten()),
    "numbers alone": lambda path: rewritten(path, lambda value: value.flatten()[0].clone()),
    "half of it": lambda path: save_file(dict(list(load_file(path).items())[::2]), path),
}


def rewritten(path: Path, change) -> None:
    save_file({name: change(value).contiguous() for name, value in load_file(path).items()}, path)


@pytest.fixture
def root(tiny_zoo, tmp_path) -> Path:
    return Path(shutil.copytree(tiny_zoo.root, tmp_path / "zoo"))


@pytest.fixture(scope="module")
def encoder() -> TextEncoder:
    return TextEncoder.load()


@pytest.fixture(scope="module")
def generator(tiny_zoo, encoder, tmp_path_factory) -> Path:
    """A folder with a trained SG-LoRA."""
    config = SGTrainConfig(
        generator="sg",
        zoo=tiny_zoo.root,
        encoder=encoder.name,
        out=Path("out"),
        epochs=1,
        steps_per_epoch=2,
        batch_size=4,
        sg=SGConfig(hidden_size=8, latent_size=4, components=4, top_k=2),
    )
    made, _ = fit_sg(config, tiny_zoo, encoder)
    folder = tmp_path_factory.mktemp("generator")
    for name, content in made.files().items():
        (folder / name).write_bytes(content.encode() if isinstance(content, str) else content)
    return folder


def short(error: LoragenError) -> bool:
    return len(str(error)) < 1000


@pytest.mark.parametrize("name", ["variance.safetensors", "snapshots.safetensors", "adapter_model.safetensors"])
@pytest.mark.parametrize("change", CHANGES)
def test_a_file_of_an_expert_that_is_not_what_it_was_is_named_by_check(root, name, change):
    CHANGES[change](root / "experts" / "bank" / name)
    begun = time.monotonic()
    met = dict(Zoo.open(root).check())
    assert [expert for expert, fault in met.items() if fault is not None] == ["bank"]
    assert len(met["bank"]) < 1000
    assert time.monotonic() - begun < 10


@pytest.mark.parametrize("name", ["variance.safetensors", "snapshots.safetensors", "adapter_model.safetensors"])
@pytest.mark.parametrize("change", CHANGES)
def test_a_file_of_an_expert_that_is_not_what_it_was_is_refused_by_training(root, encoder, name, change):
    from loragen.generators.sg.fit import read_experts

    CHANGES[change](root / "experts" / "bank" / name)
    with pytest.raises(LoragenError, match="bank") as caught:
        read_experts(Zoo.open(root), encoder, components=4)
    assert short(caught.value)


def test_snapshots_that_differ_in_number_are_refused(root, encoder):
    from loragen.generators.sg.fit import read_experts

    rewritten(root / "experts" / "cook" / "snapshots.safetensors", lambda value: value[:2])
    with pytest.raises(ZooError, match=r"cook .* has 2 snapshots, others have 3"):
        read_experts(Zoo.open(root), encoder, components=4)


@pytest.mark.parametrize("change", ["missing", "a folder", "a pipe"])
def test_experts_without_weights_have_no_fingerprint(root, change):
    CHANGES[change](root / "experts" / "bank" / "adapter_model.safetensors")
    with pytest.raises(ZooError, match=r"bank.*adapter_model\.safetensors cannot be read"):
        _ = Zoo.open(root).fingerprint


@pytest.mark.parametrize("change", CHANGES)
def test_a_start_that_is_not_what_it_was_is_refused(tmp_path, change):
    path = tmp_path / "start.safetensors"
    save_file({"s.lora_A": torch.ones(2, 3), "s.lora_B": torch.ones(4, 2)}, path)
    read_start(tmp_path)
    CHANGES[change](path)
    with pytest.raises(ZooError, match=r"start\.safetensors"):
        read_start(tmp_path)


@pytest.mark.parametrize("file", ["generator.safetensors", "frame.safetensors"])
@pytest.mark.parametrize("change", CHANGES)
def test_a_generator_whose_tensors_are_not_what_they_were_is_refused(tiny_zoo, generator, tmp_path, file, change):
    folder = Path(shutil.copytree(generator, tmp_path / "sg"))
    SG.load(folder)
    CHANGES[change](folder / file)
    with pytest.raises(GeneratorError, match="does not hold a whole SG-LoRA generator") as caught:
        SG.load(folder)
    assert short(caught.value)


def test_the_config_of_a_generator_takes_no_memory_that_its_file_does_not_hold(generator, tmp_path):
    """Layers of 65,536 by 65,536 would be 17 GB."""
    folder = Path(shutil.copytree(generator, tmp_path / "sg"))
    values = read_yaml(folder / "generator.yaml")
    values["config"] |= {"hidden_size": 65_536, "latent_size": 65_536}
    (folder / "generator.yaml").write_text(dump_yaml(values))
    begun = time.monotonic()
    with pytest.raises(GeneratorError, match="size mismatch"):
        SG.load(folder)
    assert time.monotonic() - begun < 5


def damaged(path: Path, value: object, field: str) -> None:
    path.write_text(dump_yaml(read_yaml(path) | {field: value}))


@pytest.mark.parametrize("field", Card.model_fields)
def test_whatever_stands_in_a_card_is_read_or_refused_in_short(root, field):
    path = root / "experts" / "bank" / "card.yaml"
    whole = path.read_text()
    refused = 0
    for value in BAD:
        path.write_text(whole)
        damaged(path, value, field)
        try:
            dict(Zoo.open(root).check())
        except ZooError as error:
            refused += 1
            assert short(error), value  # noqa: PT017
            assert "bank" in str(error)  # noqa: PT017
    assert refused > len(BAD) // 2


def test_a_score_that_is_no_score_is_named(root):
    damaged(root / "experts" / "bank" / "card.yaml", float("nan"), "after")
    with pytest.raises(ZooError, match=r"after.*nan"):
        Zoo.open(root)


@pytest.mark.parametrize("field", Manifest.model_fields)
def test_whatever_stands_in_a_manifest_is_read_or_refused_in_short(root, field):
    path = root / "zoo.yaml"
    whole = path.read_text()
    for value in BAD:
        path.write_text(whole)
        damaged(path, value, field)
        try:
            dict(Zoo.open(root).check())
        except ZooError as error:
            assert short(error), value  # noqa: PT017


def test_whatever_stands_in_a_generators_manifest_is_read_or_refused_in_short(generator, tmp_path):
    folder = Path(shutil.copytree(generator, tmp_path / "sg"))
    whole = read_yaml(folder / "generator.yaml")
    for field in whole:
        for value in BAD:
            (folder / "generator.yaml").write_text(dump_yaml(whole | {field: value}))
            try:
                SG.load(folder)
            except GeneratorError as error:
                assert short(error), (field, value)  # noqa: PT017


@pytest.mark.parametrize("content", [b"", b"x" * 100, None])
def test_a_damaged_cache_of_embeddings_is_made_anew(root, encoder, content):
    zoo = Zoo.open(root)
    wanted = open_generator("topk", zoo, encoder).generate(
        Condition("Sort mail.", encoder.encode(["Sort mail."])[0]), rng=torch.Generator()
    )
    (file,) = (root / "embeddings").glob(f"*{encoder.fingerprint}*.safetensors")
    if content is None:
        rewritten(file, lambda value: value * 3 if value.is_floating_point() else value)
    else:
        file.write_bytes(content)
    met = open_generator("topk", zoo, encoder).generate(
        Condition("Sort mail.", encoder.encode(["Sort mail."])[0]), rng=torch.Generator()
    )
    assert [one.neighbours for one in met] == [one.neighbours for one in wanted]


# --- model cards ---


@pytest.mark.parametrize(
    "text",
    [
        "<!--" * 100_000,
        "```" * 99_999 + "x",
        "<!-- " + "```<!--" * 100_000,
        "---\n" + "a: b\n" * 100_000,
        "---\n" * 100_000,
        "---\n" + "[" * 100_000 + "\n---\n",
        "# " + " x" * 100_000,
        "#" + (" " * 1000 + "#x") * 200,
        "\n" * 100_000 + " " * 100_000 + "x",
        "a" * 100_000_000,
    ],
)
def test_a_model_card_of_any_shape_is_read_soon(tmp_path, text):
    (tmp_path / "README.md").write_text(text)
    begun = time.monotonic()
    card = ModelCard.read(tmp_path)
    assert card.description is None or len(card.description) <= LARGEST
    assert time.monotonic() - begun < 10


def test_the_header_of_a_model_card_is_read_within_the_bounds_of_yaml(tmp_path):
    bomb = "\n".join(["a: &a [x, x]"] + [f"b{i}: &b{i} [{'*a, ' * 9}]" for i in range(3)] + ["license: mit"])
    (tmp_path / "README.md").write_text(f"---\n{bomb}\n---\nSorts mail of a shop by subject.\n")
    assert ModelCard.read(tmp_path).licence == "mit"
    (tmp_path / "README.md").write_text("---\nlicense: mit\nlicense: gpl\n---\nSorts mail of a shop by subject.\n")
    card = ModelCard.read(tmp_path)
    assert (card.header, card.description) == ({}, "Sorts mail of a shop by subject.")


def test_comments_and_code_are_left_out_and_openings_without_an_end_stay(tmp_path):
    text = "<!-- not this -->Sorts mail by subject.\n\n```\nno words of code\n```\n\nMore ``` of it <!-- here.\n"
    (tmp_path / "README.md").write_text(text)
    card = ModelCard.read(tmp_path)
    assert list(card._paragraphs()) == ["Sorts mail by subject.", "More ``` of it <!-- here."]


def test_a_model_card_that_is_a_pipe_says_nothing(tmp_path):
    os.mkfifo(tmp_path / "README.md")
    assert ModelCard.read(tmp_path) == ModelCard({}, "")


def test_folds_beyond_all_reason_are_refused_before_work():
    from loragen.zoo.folds import FoldRecipe

    begun = time.monotonic()
    for value in (1001, 10_000_000, 10**30):
        with pytest.raises(ConfigError, match="number: "):
            FoldRecipe.checked({"number": value}, source="here")
    assert time.monotonic() - begun < 1


def test_a_rank_beyond_what_sites_read_is_refused():
    from loragen.recipes.expert import Start

    with pytest.raises(ConfigError, match="rank is 9, but s reads 8 features"):
        Start.random({"s": (4, 8)}, 9, rng=torch.Generator())


# --- states and cells ---


@pytest.mark.parametrize("content", ["", "[", "[]", "3", "[" * 100_000, '{"1": ' + "9" * 5000 + "}", "\x00"])
def test_a_damaged_state_of_a_training_is_named_with_the_way_out(tmp_path, content):
    from loragen.generators.trained import kept_values

    assert kept_values(tmp_path / "worth.json") == {}
    (tmp_path / "worth.json").write_text(content)
    with pytest.raises(GeneratorError, match=r"damaged at worth\.json .*; remove that folder") as caught:
        kept_values(tmp_path / "worth.json")
    assert short(caught.value)


@pytest.mark.parametrize(
    "line", ["[" * 100_000, "{}", "3", '{"task": ' + "9" * 5000 + "}", "\x00", "{" + '"a":{' * 50_000]
)
def test_a_damaged_cell_is_named_by_its_line(tmp_path, line):
    from loragen.evaluation.cells import CellFile

    (tmp_path / "cells.jsonl").write_text(line + "\n")
    with pytest.raises(ConfigError, match=r"cells\.jsonl:1") as caught:
        list(CellFile(tmp_path / "cells.jsonl").read())
    assert short(caught.value)
