"""Generators forget an expert by an edit: how near they come to one that never knew it, and how it is taken back."""

import shutil
from pathlib import Path

import pytest
import torch
from forget_toys import SETTINGS, Case, given

import loragen
from loragen.adapters.adapter import Lora
from loragen.conditions.text_encoder import TextEncoder
from loragen.errors import GeneratorError, ZooError
from loragen.generators.edits import Edit, edit_file, read_edits
from loragen.generators.registry import open_generator
from loragen.lean.errors import NotLeanError
from loragen.lean.sg import LeanSG
from loragen.zoo.zoo import Zoo


def equal(ones: list[Lora], others: list[Lora]) -> bool:
    return all(
        torch.equal(one.delta_weight(site), other.delta_weight(site))
        for one, other in zip(ones, others, strict=True)
        for site in one.sites
    )


def copied(case: Case, folder: Path) -> Zoo:
    return Zoo.open(shutil.copytree(case.zoo.root, folder / "zoo"))


def test_the_expert_is_as_far_as_for_a_generator_that_never_knew_it(case: Case) -> None:
    (report,) = case.found.generators
    known = report.unlisted  # by the network, whatever is looked up
    assert known < report.forgotten.gold
    assert report.forgotten.after > known + 0.7 * (report.forgotten.gold - known)
    assert report.remaining.after < report.remaining.before + 0.2
    assert not case.found.removed


def test_some_layers_are_left_exactly_as_they_were_and_others_not(case: Case) -> None:
    (report,) = case.found.generators
    (edit,) = read_edits(case.folder)
    assert 0 < len(report.zero) < report.layers
    assert edit.factors.keys() == set(edit.facts.layers) - set(report.zero)
    assert edit.facts.adapter_hash == case.zoo.hashes[case.expert]


def test_the_generator_no_longer_names_the_expert_and_its_card_says_so(case: Case, tmp_path) -> None:
    generator = open_generator(case.kind, case.zoo, case.encoder)
    assert case.expert not in generator.known
    description = case.zoo.card(case.expert).description
    made = loragen.generate(description, generator=case.kind, zoo=case.zoo, encoder=case.encoder.name, fallback=False)
    assert made.card.edits == (case.expert,)
    assert case.expert not in {parent.id for parent in made.card.parents}
    if case.kind == "sg":
        assert case.expert not in generator.library.ids
    made.save(tmp_path / "made")
    assert f"which has forgotten {case.expert}" in (tmp_path / "made" / "README.md").read_text()


def test_without_the_file_of_the_edit_all_is_as_before(case: Case, tmp_path) -> None:
    assert not equal(given(case.kind, case.zoo, case.encoder, case.expert), case.before)
    zoo = copied(case, tmp_path)
    edit_file(zoo.root / "generators" / case.kind, case.expert).unlink()
    assert equal(given(case.kind, zoo, case.encoder, case.expert), case.before)


def test_the_zoo_may_lose_the_expert_and_nothing_else(case: Case, tmp_path) -> None:
    zoo = copied(case, tmp_path)
    found = loragen.forget(case.expert, zoo, encoder=case.encoder.name)
    assert found.removed
    assert found.generators == ()  # it has forgotten it already
    left = Zoo.open(zoo.root)
    assert case.expert not in left.ids
    open_generator(case.kind, left, case.encoder)
    other = next(name for name in left.ids if left.card(name).split == "experts")
    shutil.rmtree(left.folder(other))
    with pytest.raises(GeneratorError, match="trained on other experts"):
        open_generator(case.kind, Zoo.open(zoo.root), case.encoder)


def test_an_edit_is_undone_while_the_zoo_has_the_expert(case: Case, tmp_path) -> None:
    zoo = copied(case, tmp_path)
    assert loragen.undo_forgetting(case.expert, zoo) == (case.kind,)
    assert read_edits(zoo.root / "generators" / case.kind) == ()
    with pytest.raises(GeneratorError, match=r"No generator of .* has an edit"):
        loragen.undo_forgetting(case.expert, zoo)
    shutil.rmtree(zoo.folder(case.expert))
    with pytest.raises(ZooError, match="has no expert"):
        loragen.undo_forgetting(case.expert, zoo.root)


def test_two_edits_compose_and_each_can_go_first(case: Case, tmp_path) -> None:
    zoo = copied(case, tmp_path)
    second = next(name for name in zoo.ids if name != case.expert and zoo.card(name).split == "experts")
    quick = SETTINGS[case.kind].model_copy(update={"steps": 10, "penalty": 0.0})
    loragen.forget(second, zoo, keep_expert=True, encoder=case.encoder.name, settings=quick)
    folder = zoo.root / "generators" / case.kind
    edits = read_edits(folder)
    assert [(edit.facts.expert, edit.facts.number) for edit in edits] == [(case.expert, 1), (second, 2)]
    both = open_generator(case.kind, zoo, case.encoder)
    assert not {case.expert, second} & set(both.known)
    assert changed_weight(both, edits, case) < 1e-5
    loragen.undo_forgetting(case.expert, zoo)
    assert changed_weight(open_generator(case.kind, zoo, case.encoder), edits[1:], case) < 1e-5


def changed_weight(generator, edits: tuple[Edit, ...], case: Case) -> float:
    """The most by which a network differs from the weights of its file plus the products of edits."""
    from safetensors.torch import load_file

    stored, worst = load_file(case.folder / "generator.safetensors"), 0.0
    for name, parameter in generator.network.named_parameters():
        wanted = stored[f"network.{name}"].float()
        for edit in edits:
            if (layer := name.removesuffix(".weight")) in edit.factors and name.endswith(".weight"):
                a, b = edit.factors[layer]
                wanted = wanted + (b @ a).view_as(wanted)
        worst = max(worst, float((parameter - wanted).abs().max()))
    return worst


def test_the_way_without_torch_hands_over(case: Case) -> None:
    if case.kind == "sg":
        with pytest.raises(NotLeanError, match="forgotten experts by edits"):
            LeanSG.load(case.folder)


def test_what_cannot_be_forgotten_is_refused(case: Case) -> None:
    for asked, message in (
        ({"expert": "nobody"}, "has no expert"),
        ({"expert": case.expert, "generators": ["topk"]}, "has learnt nothing"),
        ({"expert": case.expert, "generators": ["sgg"]}, "no trained generator"),
    ):
        with pytest.raises((ZooError, GeneratorError), match=message):
            loragen.forget(zoo=case.zoo, keep_expert=True, encoder=case.encoder.name, **asked)


def test_one_who_never_joined_is_removed_without_an_edit(tiny_zoo, tmp_path) -> None:
    zoo = Zoo.open(shutil.copytree(tiny_zoo.root, tmp_path / "zoo"))
    found = loragen.forget("shop", zoo, encoder=TextEncoder.load().name)
    assert (found.generators, found.removed) == ((), True)
    assert "shop" not in Zoo.open(zoo.root).ids
