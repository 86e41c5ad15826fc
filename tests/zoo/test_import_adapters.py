"""Importing adapters: the frame that holds them, losses, refusals, and generators over what was imported."""

import json

import pytest
import torch
from external_helpers import Q_ALONE, SITES, adapter_of, external
from families import write_base
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from loragen.adapters.adapter import Lora
from loragen.adapters.frame import Frame
from loragen.cli.app import app
from loragen.conditions.condition import Conditioner, Evidence
from loragen.conditions.text_encoder import TextEncoder
from loragen.errors import AdapterError, ConfigError, ZooError
from loragen.generators.registry import open_generator
from loragen.generators.train import read_config, train_generator
from loragen.zoo.external_adapter import ExternalAdapter
from loragen.zoo.import_adapters import brought, import_adapters, plan_import, smallest_rank, write_import
from loragen.zoo.zoo import Zoo


@pytest.fixture
def mixed() -> list[ExternalAdapter]:
    """Of different ranks, alphas, scalings and target modules."""
    return [
        external("one", adapter_of(0, 2)),
        external("two", adapter_of(1, 4, alpha=16, rslora=True)),
        external("three", adapter_of(2, 3, sites=Q_ALONE, alpha=1)),
    ]


def test_all_of_every_adapter_is_kept_where_the_rank_may_be_what_they_need(mixed, tmp_path) -> None:
    plan = plan_import(mixed, tmp_path / "zoo", name="zoo", max_loss=1e-4)
    write_import(plan, tmp_path / "zoo")
    zoo = Zoo.open(tmp_path / "zoo")
    assert set(zoo.ids) == {"one", "two", "three"}
    assert [fault for _, fault in zoo.check()] == [None] * 3
    for one in mixed:
        kept = zoo.adapter(one.id)
        assert kept.sites == tuple(SITES)
        for site in SITES:
            wanted = one.adapter.delta_weight(site) if site in one.adapter.lora_A else torch.zeros(SITES[site], 16)
            torch.testing.assert_close(kept.delta_weight(site), wanted, rtol=0, atol=0.02 * one.adapter.norm())
    assert zoo.card("three").provenance.missing == tuple(site for site in SITES if site not in Q_ALONE)
    assert zoo.card("two").provenance.use_rslora
    shared = {site: zoo.adapter("one").lora_A[site] for site in SITES}
    assert all(torch.equal(zoo.adapter(expert).lora_A[site], a) for expert in zoo.ids for site, a in shared.items())


@given(st.lists(st.integers(1, 4), min_size=1, max_size=5), st.sampled_from([0.01, 0.1, 0.4]), st.integers(0, 1000))
def test_the_rank_is_the_smallest_that_loses_no_more_than_allowed(ranks, max_loss, seed) -> None:
    adapters = [adapter_of(seed + i, r) for i, r in enumerate(ranks)]
    whole = Frame.fit(adapters, r=16)
    rank = smallest_rank(whole, adapters, max_loss)

    def most_lost(r: int) -> float:
        basis = {site: whole.lora_A[site][:r].double() for site in SITES}
        lost = []
        for adapter in adapters:
            deltas = {site: adapter.delta_weight(site).double() for site in SITES}
            kept = sum(float((delta @ basis[site].T).square().sum()) for site, delta in deltas.items())
            lost.append(1 - kept / sum(float(delta.square().sum()) for delta in deltas.values()))
        return max(lost)

    assert most_lost(rank) <= max_loss
    assert rank == 1 or most_lost(rank - 1) > 0.9 * max_loss - 1e-5


def test_what_the_frame_cannot_hold_is_told_and_refused(mixed, tmp_path) -> None:
    with pytest.raises(
        AdapterError, match=r"rank 2 loses more than 5\.0 % of 3 of 3 adapters' energy: one \d.*--max-loss"
    ):
        plan_import(mixed, tmp_path / "zoo", name="zoo", rank=2)
    assert not (tmp_path / "zoo").exists()
    plan = plan_import(mixed, tmp_path / "zoo", name="zoo", rank=2, max_loss=1)
    for one, facts in zip(mixed, plan.imported, strict=True):
        held = brought(one.adapter, plan.frame, "tiny")
        lost = sum(
            float((one.adapter.delta_weight(site) - held.delta_weight(site)).square().sum())
            for site in one.adapter.sites
        )
        assert 1 - facts.energy_kept == pytest.approx(lost / one.adapter.norm() ** 2, abs=2e-3)
        assert facts.energy_kept < 0.95


def test_an_interrupted_import_leaves_no_zoo(mixed, tmp_path) -> None:
    def stop(*_step: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_import(plan_import(mixed, tmp_path / "zoo", name="zoo"), tmp_path / "zoo", stop)
    assert list(tmp_path.iterdir()) == []


def test_later_ones_go_into_the_frame_that_is_there(mixed, tmp_path) -> None:
    root = tmp_path / "zoo"
    write_import(plan_import(mixed, root, name="zoo", max_loss=1e-4), root)
    before = (root / "zoo.yaml").read_bytes()
    blend = adapter_of(0, 2, alpha=2)  # of the first one's rows
    write_import(plan_import([external("four", blend)], root, name="other"), root)
    assert (root / "zoo.yaml").read_bytes() == before
    assert Zoo.open(root).card("four").provenance.energy_kept > 0.999
    stranger = external("five", adapter_of(9, 16, sites=Q_ALONE))
    with pytest.raises(ZooError, match="has its frame already"):
        plan_import([stranger], root, name="zoo", rank=4)
    with pytest.raises(ZooError, match="has one already; give other names"):
        plan_import([external("one", blend)], root, name="zoo")
    with pytest.raises(ZooError, match="is of the base tiny, the adapters of other"):
        plan_import([external("six", blend, base="other")], root, name="zoo")


def test_what_lies_there_and_is_no_zoo_stays(mixed, tmp_path) -> None:
    (tmp_path / "letters").mkdir()
    (tmp_path / "letters" / "one.txt").write_text("Dear")
    with pytest.raises(ZooError, match=r"letters is there already and is no zoo"):
        plan_import(mixed, tmp_path / "letters", name="zoo")
    assert (tmp_path / "letters" / "one.txt").read_text() == "Dear"


def test_adapters_that_do_not_go_together_are_refused(mixed, tmp_path) -> None:
    root = tmp_path / "zoo"
    with pytest.raises(ZooError, match="no adapter to import"):
        plan_import([], root, name="zoo")
    with pytest.raises(AdapterError, match=r"of one base; met tiny \(one\), other \(two\)"):
        plan_import([mixed[0], external("two", mixed[1].adapter, base="other")], root, name="zoo")
    with pytest.raises(ZooError, match="would be called one"):
        plan_import([mixed[0], mixed[0]], root, name="zoo")


def test_sites_are_compared_with_the_base_where_its_config_is_at_hand(mixed, tmp_path) -> None:
    base = str(write_base(tmp_path / "llama", "llama"))
    (tmp_path / "llama" / "model.safetensors").unlink()
    good = [external(one.id, one.adapter, base=base) for one in mixed]
    assert plan_import(good, tmp_path / "zoo", name="zoo").is_checked
    assert not plan_import(mixed, tmp_path / "zoo", name="zoo").is_checked
    renamed = Lora.from_factors(
        {site.removeprefix("model."): a for site, a in mixed[0].adapter.lora_A.items()},
        {site.removeprefix("model."): b for site, b in mixed[0].adapter.lora_B.items()},
        base_model_name_or_path=base,
        task_type="CAUSAL_LM",
    )
    with pytest.raises(AdapterError, match=r"adapter bad does not fit .*prefix 'model\.'"):
        plan_import([external("bad", renamed, base=base)], tmp_path / "zoo", name="zoo")


def test_generators_are_trained_on_imported_adapters_without_the_base(tmp_path) -> None:
    """No file of the base is there at all: zoo, generator and text encoder do."""
    for seed in range(5):
        adapter_of(seed, 2 + seed % 2).save(tmp_path / f"expert-{seed}")
    sources = [str(tmp_path / f"expert-{seed}") for seed in range(5)]
    told = [part for seed in range(5) for part in ("--description", f"Sort letters about topic {seed}.")]
    root = tmp_path / "zoo"
    made = CliRunner().invoke(app, ["zoo", "import", *sources, "--zoo", str(root), *told, "--json"])
    assert made.exit_code == 0, made.output
    facts = json.loads(made.stdout)
    assert facts["base"] == "tiny"
    assert not facts["checked_against_base"]
    assert all(expert["energy_kept"] >= 0.95 for expert in facts["experts"])
    (tmp_path / "sg.yaml").write_text(
        f"generator: sg\nzoo: {root}\nencoder: all-MiniLM-L6-v2\nout: {root}/generators/sg\n"
        "epochs: 1\nsteps_per_epoch: 3\nbatch_size: 4\nsg: {top_k: 3, components: 4}\n"
    )
    train_generator(read_config(tmp_path / "sg.yaml"))
    zoo, encoder = Zoo.open(root), TextEncoder.load()
    for name in ("mean", "topk", "ridge", "sg"):
        generator = open_generator(name, zoo, encoder)
        conditioner = Conditioner(encoder, generator.reading, generator.evidence)
        condition = conditioner.condition(Evidence("Sort letters."))
        (generation,) = generator.generate(condition, rng=torch.Generator().manual_seed(0))
        assert generation.adapter.settings.task_type == "CAUSAL_LM"
        assert {site.r for site in generation.adapter.spec.sites} == {facts["rank"]}


def test_a_number_of_descriptions_that_does_not_fit_is_a_mistake_of_the_user(tmp_path) -> None:
    adapter_of(0, 2).save(tmp_path / "one")
    made = CliRunner().invoke(
        app, ["zoo", "import", str(tmp_path / "one"), "--zoo", str(tmp_path / "z"), *["--id", "a"] * 2]
    )
    assert made.exit_code != 0
    assert "--id was given 2 times for 1 adapters" in str(made.exception)


def test_descriptions_and_ids_are_one_for_each_adapter(tmp_path) -> None:
    for seed, name in enumerate(("one", "two")):
        adapter_of(seed, 2).save(tmp_path / name)
    sources, steps = [str(tmp_path / name) for name in ("one", "two")], []
    for values, named in ((["A."], {"descriptions": ["A."]}), (["a", "b", "c"], {"ids": ["a", "b", "c"]})):
        with pytest.raises(ConfigError, match=f"{len(values)} {next(iter(named))} came with 2 adapters"):
            import_adapters(sources, tmp_path / "zoo", **named)
    assert not (tmp_path / "zoo").exists()
    plan = import_adapters(
        sources,
        tmp_path / "zoo",
        descriptions=["Sort letters.", "Sort bills."],
        ids=[None, "bills"],
        progress=lambda *step: steps.append(step),
    )
    assert [one.description_source for one in plan.adapters] == ["given", "given"]
    assert {card.id: card.description for card in Zoo.open(tmp_path / "zoo")} == {
        "one": "Sort letters.",
        "bills": "Sort bills.",
    }
    assert steps == [
        *(("reading adapters", done, 2) for done in (0, 1, 2)),
        *(("writing experts", done, 2) for done in (1, 2)),
    ]


def test_an_import_that_was_interrupted_goes_on(mixed, tmp_path) -> None:
    root = tmp_path / "zoo"
    write_import(plan_import(mixed, root, name="zoo", max_loss=1e-4), root)
    later = [external(name, adapter_of(seed, 2, alpha=2)) for seed, name in enumerate(("four", "five"))]

    def stop(_stage, _done, _total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_import(plan_import(later, root, name="zoo", max_loss=1), root, stop)
    first = {path: path.stat().st_mtime_ns for path in (root / "experts" / "four").iterdir()}
    plan = plan_import(later, root, name="zoo", max_loss=1)
    assert plan.there == ("four",)
    write_import(plan, root)
    assert {"four", "five"} < set(Zoo.open(root).ids)
    assert {path: path.stat().st_mtime_ns for path in (root / "experts" / "four").iterdir()} == first


def test_a_zoo_that_came_or_changed_after_the_plan_is_left(mixed, tmp_path) -> None:
    root = tmp_path / "zoo"
    new = plan_import(mixed[:1], root, name="zoo")
    write_import(plan_import(mixed[1:], root, name="zoo", max_loss=1e-4), root)
    with pytest.raises(ConfigError, match="exists already"):
        write_import(new, root)
    four, five = (plan_import([external(name, adapter_of(0, 2))], root, name="zoo", max_loss=1) for name in ("4", "5"))
    write_import(four, root)
    with pytest.raises(ZooError, match="was changed while the adapters were read; import them again"):
        write_import(five, root)
    assert set(Zoo.open(root).ids) == {"two", "three", "4"}
