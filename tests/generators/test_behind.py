"""Generators know which experts they have missed, draw on none that went, and are refused where one was changed."""

from pathlib import Path
from shutil import copytree, rmtree
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from generation_toys import add_confidence
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from models import write_tiny_encoder

from loragen.adapters.adapter import Lora
from loragen.bases.known import EMBEDDED_MODEL
from loragen.conditions.condition import Condition, Evidence
from loragen.conditions.text_encoder import TextEncoder
from loragen.errors import GeneratorError
from loragen.evaluation.workspace import refuse_gone
from loragen.exporters.card import card_of, model_card
from loragen.generation import generate_samples
from loragen.generation.pipeline import Pipeline
from loragen.generators import listing
from loragen.generators.behind import SHOWN, Behind
from loragen.generators.icm.episodes import ICMTrainConfig
from loragen.generators.icm.model import ICMConfig
from loragen.generators.listing import list_generators
from loragen.generators.origin import behind_of
from loragen.generators.registry import missed_by, open_generator
from loragen.generators.sg.fit import SGTrainConfig
from loragen.generators.sg.model import SGConfig
from loragen.generators.train import RUN, train_generator
from loragen.generators.update import update_zoo
from loragen.zoo.card import Card, Imported
from loragen.zoo.changes import CHANGES, fingerprint_of, note, read_changes
from loragen.zoo.insert_expert import insert_expert
from loragen.zoo.pack import pack_zoo
from loragen.zoo.remove import remove_expert
from loragen.zoo.zoo import Zoo

TEXT = "Tell what a bank customer wants."


@pytest.fixture(scope="module")
def encoder() -> TextEncoder:
    return TextEncoder.load()


@pytest.fixture(scope="module")
def with_generators(tiny_zoo, tmp_path_factory) -> Path:
    """A zoo with an SG-LoRA and an ICM-LoRA of a few steps."""
    root = copytree(tiny_zoo.root, tmp_path_factory.mktemp("behind") / "zoo")
    shared: dict[str, Any] = {
        "zoo": root,
        "encoder": EMBEDDED_MODEL,
        "epochs": 1,
        "steps_per_epoch": 2,
        "batch_size": 8,
    }
    network = {"components": 4, "latent_size": 2}
    sg = SGConfig(top_k=4, hidden_size=4, **network)
    train_generator(SGTrainConfig(generator="sg", out=root / "generators" / "sg", sg=sg, **shared))
    icm = ICMConfig(evidence=("description",), channels=(4,), **network)
    base = str(write_tiny_encoder(root.parent / "base"))
    out = root / "generators" / "icm"
    train_generator(ICMTrainConfig(generator="icm", out=out, icm=icm, folds=0, reading_model=base, **shared))
    return root


@pytest.fixture
def zoo(with_generators, tmp_path) -> Zoo:
    return Zoo.open(copytree(with_generators, tmp_path / "zoo"))


def another(zoo: Zoo, name: str, *, of: str = "mood") -> tuple[Card, Lora]:
    """An expert that is the opposite of one."""
    card, adapter = zoo.card(of), zoo.adapter(of)
    turned = {site: -b for site, b in adapter.lora_B.items()}
    elsewhere = Imported(r=2, lora_alpha=2, use_rslora=False, energy_kept=1.0, missing=())
    return card.model_copy(update={"id": name, "provenance": elsewhere}), Lora(adapter.settings, adapter.lora_A, turned)


def generated(zoo: Zoo, encoder: TextEncoder, name: str = "sg", **options: Any):
    condition = Condition(TEXT, encoder.encode([TEXT])[0])
    (made,) = open_generator(name, zoo, encoder, **options).generate(condition, rng=torch.Generator().manual_seed(3))
    return made


# --- what came ---


def test_experts_that_came_are_unseen_and_change_nothing_of_what_is_made(zoo, encoder) -> None:
    before = generated(zoo, encoder)
    assert missed_by(open_generator("sg", zoo, encoder), zoo) is None
    grown = insert_expert(insert_expert(zoo, *another(zoo, "tea")), *another(zoo, "soup"))
    generator = open_generator("sg", grown, encoder)
    assert missed_by(generator, grown) == Behind(unseen=("soup", "tea"))
    after = generated(grown, encoder)
    assert (after.adapter.files(), after.neighbours) == (before.adapter.files(), before.neighbours)
    (grown.root / CHANGES).unlink()
    assert missed_by(open_generator("sg", grown, encoder), grown), "no log is wanted where none has gone"
    assert missed_by(open_generator("topk", grown, encoder), grown) is None, "merges draw on all that there are"


def test_an_expert_that_generators_do_not_draw_on_is_none_that_was_missed(zoo, encoder) -> None:
    card, adapter = another(zoo, "tea")
    grown = insert_expert(zoo, card.model_copy(update={"split": "validation"}), adapter)
    assert missed_by(open_generator("sg", grown, encoder), grown) is None


# --- what went ---


def test_experts_that_went_are_never_drawn_on(zoo, encoder) -> None:
    first, second, *rest = [near.id for near in generated(zoo, encoder).neighbours]
    wanted = open_generator("sg", zoo, encoder).drawing_on(top_k=None, exclude=frozenset((first, second)))
    asked = Condition(TEXT, encoder.encode([TEXT])[0])
    remove_expert([first, second], zoo)
    now = Zoo.open(zoo.root)
    assert missed_by(open_generator("sg", now, encoder), now) == Behind(gone=tuple(sorted((first, second))))
    made, again = generated(now, encoder), wanted.generate(asked, rng=torch.Generator().manual_seed(3))[0]
    assert (made.adapter.files(), made.neighbours) == (again.adapter.files(), again.neighbours)
    assert [near.id for near in made.neighbours][:2] == rest[:2]
    licensed = generated(now, encoder, licences=["mit"])
    assert {now.card(near.id).licence for near in licensed.neighbours} == {"MIT"}, "licences leave out others besides"
    assert not {first, second} & {near.id for near in licensed.neighbours}


def test_a_network_that_has_learnt_from_all_says_which_have_gone(zoo, encoder) -> None:
    remove_expert(["bank"], zoo)
    insert_expert(Zoo.open(zoo.root), *another(zoo, "tea"))
    now = Zoo.open(zoo.root)
    pipeline = Pipeline.open("icm", now, encoder)
    (made,) = pipeline.generate(Evidence(TEXT))
    assert pipeline.behind == Behind(unseen=("tea",), gone=("bank",))
    assert {near.id for near in made.neighbours} == set(zoo.drawn_on.ids) - {"bank"}
    facts = {"description": TEXT, "generator": "icm", "seed": 0, "sample": 0, "encoder": "", "encoder_hash": ""}
    card = card_of(made, now, behind=pipeline.behind.on_card(), **facts)
    assert (card.behind.unseen, card.behind.first_unseen) == (1, ("tea",))
    assert (card.behind.gone, card.behind.first_gone) == (1, ("bank",))
    assert "since the generator was trained: 1 had come since, 1 had gone" in model_card(card, made.adapter)


@pytest.mark.parametrize("how", ["by hand", "without its log", "to others", "all of them"])
def test_what_it_was_trained_on_must_be_known(how, zoo, encoder) -> None:
    if how == "by hand":
        rmtree(zoo.folder("bank"))
    elif how == "without its log":
        remove_expert("bank", zoo)
        (zoo.root / CHANGES).unlink()
    elif how == "to others":
        remove_expert("bank", zoo)
        insert_expert(Zoo.open(zoo.root), *another(zoo, "bank"))
    else:
        insert_expert(zoo, *another(zoo, "tea"))
        remove_expert(zoo.drawn_on.ids, zoo)
    now = Zoo.open(zoo.root)
    message = "of which .* has none any more" if how == "all of them" else "trained on other experts"
    with pytest.raises(GeneratorError, match=rf"{message}.*train it again with `loragen train`"):
        open_generator("sg", now, encoder)
    told = {one.name: one.fault for one in list_generators(now)}
    assert set(told) == {"icm", "sg"}
    assert all("train it again" in fault for fault in told.values())


def test_one_that_went_and_came_back_has_not_gone(zoo, encoder) -> None:
    remove_expert("bank", zoo)
    back = insert_expert(Zoo.open(zoo.root), zoo.card("bank"), zoo.adapter("mood"))
    remove_expert("bank", back)
    again = Zoo.open(zoo.root)
    assert missed_by(open_generator("sg", again, encoder), again) == Behind(gone=("bank",)), "as it was then"


def test_a_library_of_many_names_its_experts_itself(zoo, encoder, tmp_path, monkeypatch) -> None:
    for name in ("zoo.expert_index", "conditions.inverted_lists", "generators.sg.library"):
        monkeypatch.setattr(f"loragen.{name}.MOST_FLAT", 3)
    packed = pack_zoo(zoo, tmp_path / "packed")
    out = packed.root / "generators" / "sg"
    settings = SGTrainConfig.from_yaml(out / RUN).model_copy(update={"zoo": packed.root, "out": out})
    train_generator(settings, force=True)
    assert open_generator("sg", packed, encoder).manifest.experts == ()
    remove_expert("bank", packed)
    now = insert_expert(Zoo.open(packed.root), *another(zoo, "tea"))
    assert missed_by(open_generator("sg", now, encoder), now) == Behind(unseen=("tea",), gone=("bank",))
    assert "bank" not in {near.id for near in generated(now, encoder).neighbours}
    assert {one.name: one.behind for one in list_generators(now)}["sg"] == Behind(unseen=("tea",), gone=("bank",))


IDS = st.sampled_from("abcdef")


@settings(max_examples=60)
@given(st.sets(IDS, min_size=1), st.lists(st.tuples(IDS, st.integers(0, 1)), max_size=12), st.integers(0, 12))
def test_whatever_comes_and_goes_it_is_the_difference_or_refused(tmp_path_factory, first, steps, trained_at) -> None:
    root = tmp_path_factory.mktemp("log")
    hashes, then = {name: f"{0:064}" for name in first}, None
    for number, (name, version) in enumerate(steps):
        if number == trained_at:
            then = dict(hashes)
        before = fingerprint_of(hashes)
        what = "removed" if name in hashes else "added"
        value = hashes.pop(name) if what == "removed" else f"{version:064}"
        hashes |= {} if what == "removed" else {name: value}
        note(root, what, before, fingerprint_of(hashes), expert=name, sha256=value)
    then = dict(hashes) if then is None else then
    assume(then)
    now = SimpleNamespace(root=root, hashes=dict(sorted(hashes.items())), fingerprint=fingerprint_of(hashes))
    origin = SimpleNamespace(zoo_hash=fingerprint_of(then))
    same, changed = (
        {name for name in then if name in hashes and (hashes[name] == then[name]) == is_same}
        for is_same in (True, False)
    )
    if changed or not same:
        with pytest.raises(GeneratorError, match="train it again"):
            behind_of(origin, tuple(then), now)
        return
    unseen, gone = tuple(sorted(hashes.keys() - then.keys())), tuple(sorted(then.keys() - hashes.keys()))
    assert behind_of(origin, tuple(then), now) == (Behind(unseen=unseen, gone=gone) if unseen or gone else None)


# --- what is said ---


def test_the_sentence_counts_and_names_some() -> None:
    behind = Behind(unseen=("a", "b", "c", "d"), gone=("e",))
    assert behind.sentence("sg", "zoo/run.yaml") == (
        "The generator sg has not seen 4 experts (a, b, c, …) and was trained on 1 expert (e) no longer in the zoo; "
        "bring it up to date: loragen train zoo/run.yaml --update joint"
    )
    many = Behind(unseen=tuple(map(str, range(100)))).on_card()
    assert (many.unseen, len(many.first_unseen), many.gone) == (100, SHOWN, 0)


def test_a_generation_carries_a_note_and_a_card(zoo, encoder, tmp_path) -> None:
    grown = insert_expert(zoo, *another(zoo, "tea"))
    (adapter,) = generate_samples(TEXT, zoo=grown, fallback=False)
    assert adapter.card.behind.first_unseen == ("tea",)
    (text,) = (note for note in adapter.notes if "has not seen 1 expert (tea)" in note)
    assert str(grown.root / "generators" / "sg" / RUN) in text
    assert [one for one in generate_samples(TEXT, zoo=zoo, fallback=False)[0].notes if "not seen" in one] == []


def test_an_evaluation_does_not_take_what_has_learnt_from_experts_that_went(zoo, encoder) -> None:
    insert_expert(zoo, *another(zoo, "tea"))
    refuse_gone({"sg": Pipeline.open("sg", Zoo.open(zoo.root), encoder)})
    remove_expert("bank", zoo)
    with pytest.raises(GeneratorError, match="sg was trained on bank, which the zoo no longer has"):
        refuse_gone({"sg": Pipeline.open("sg", Zoo.open(zoo.root), encoder)})


def test_no_gain_is_foretold_of_a_generator_that_is_behind(zoo, encoder) -> None:
    grown = insert_expert(zoo, *another(zoo, "tea"))
    add_confidence(grown.root, generator="sg", generated=0.1)  # fitted for a generator that had seen all of these
    assert Pipeline.open("sg", grown, encoder).confidence is None
    assert Pipeline.open("topk", grown, encoder).confidence is None, "none was fitted for it"
    remove_expert("tea", grown)
    assert Pipeline.open("sg", Zoo.open(grown.root), encoder).confidence is None


# --- brought up to date ---


def test_an_update_says_who_is_behind_and_trains_them_with_their_own_configs(zoo, encoder, monkeypatch) -> None:
    rmtree(zoo.root / "generators" / "icm")
    insert_expert(zoo, *another(zoo, "tea"))
    told = update_zoo(zoo.root, encoder=encoder)
    ((sg,), trained) = told.generators, told.trained
    assert (sg.name, sg.behind, sg.config, trained) == ("sg", Behind(unseen=("tea",)), sg.folder / RUN, ())
    steps: list[tuple[str, int, int]] = []
    done = update_zoo(zoo.root, train=True, encoder=encoder, progress=lambda *step: steps.append(step))
    assert done.trained == ("sg",)
    assert [one.behind for one in done.generators] == [None]
    assert ("training sg", 2, 2) in steps
    now = Zoo.open(zoo.root)
    assert open_generator("sg", now, encoder).manifest.experts == now.drawn_on.ids
    assert update_zoo(zoo.root, train=True, encoder=encoder).trained == ()
    (zoo.root / "generators" / "sg" / RUN).unlink()
    remove_expert("tea", zoo.root)
    with pytest.raises(Exception, match=r"(?s)config that sg was trained with cannot be read.*loragen train CONFIG"):
        update_zoo(zoo.root, train=True, encoder=encoder)


def test_an_update_writes_down_what_was_changed_without_the_log(zoo, encoder) -> None:
    assert not update_zoo(zoo, encoder=encoder).was_changed
    assert read_changes(zoo.root) == ()
    grown = insert_expert(zoo, *another(zoo, "tea")).fingerprint
    rmtree(zoo.folder("rain"))
    now = Zoo.open(zoo.root)
    assert update_zoo(zoo, encoder=encoder).was_changed
    found = read_changes(zoo.root)[-1]
    assert (found.what, found.before, found.after) == ("found", grown, now.fingerprint)
    assert not update_zoo(zoo, encoder=encoder).was_changed


def test_damaged_generators_are_told_and_hide_no_others(zoo) -> None:
    (zoo.root / "generators" / "icm" / "generator.yaml").write_text("kind: [")
    icm, sg = listing.list_generators(zoo)
    assert (icm.behind, sg.fault, sg.sentence()) == (None, None, None)
    assert icm.sentence().startswith("The generator icm cannot be used: ")
