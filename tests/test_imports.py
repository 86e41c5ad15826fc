import json

import pytest
import torch
from families import write_base
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from loragen.adapters.adapter import Lora
from loragen.adapters.frame import Frame
from loragen.adapters.settings import LoraSettings
from loragen.cli.app import app
from loragen.conditions.condition import Conditioner
from loragen.conditions.text_encoder import TextEncoder
from loragen.errors import AdapterError, TaskError, ZooError
from loragen.generators.registry import open_generator
from loragen.generators.train import read_config, train_generator
from loragen.zoo.external_adapter import Foreign
from loragen.zoo.import_adapters import brought, plan_import, smallest_rank, write_import
from loragen.zoo.zoo import Zoo

SITES = {
    f"model.layers.{layer}.self_attn.{name}": out for layer in (0, 1) for name, out in (("q_proj", 16), ("v_proj", 8))
}
Q_ALONE = tuple(site for site in SITES if site.endswith("q_proj"))


def adapter_of(seed: int, r: int, *, sites=tuple(SITES), alpha: float = 8.0, rslora: bool = False, base="tiny") -> Lora:
    rng = torch.Generator().manual_seed(seed)
    settings = LoraSettings(
        r=r,
        lora_alpha=alpha,
        target_modules=tuple(sorted({site.rpartition(".")[2] for site in sites})),
        base_model_name_or_path=base,
        task_type="CAUSAL_LM",
        use_rslora=rslora,
    )
    return Lora(
        settings,
        {site: torch.randn(r, 16, generator=rng) for site in sites},
        {site: torch.randn(SITES[site], r, generator=rng) for site in sites},
    )


def foreign(name: str, adapter: Lora, base="tiny") -> Foreign:
    return Foreign(name, adapter, base, f"What {name} is for.")


@pytest.fixture
def mixed() -> list[Foreign]:
    """Of different ranks, alphas, scalings and target modules."""
    return [
        foreign("one", adapter_of(0, 2)),
        foreign("two", adapter_of(1, 4, alpha=16, rslora=True)),
        foreign("three", adapter_of(2, 3, sites=Q_ALONE, alpha=1)),
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
    assert zoo.card("three").imported.missing == tuple(site for site in SITES if site not in Q_ALONE)
    assert zoo.card("two").imported.use_rslora
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
    def stop(done: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_import(plan_import(mixed, tmp_path / "zoo", name="zoo"), tmp_path / "zoo", stop)
    assert list(tmp_path.iterdir()) == []


def test_later_ones_go_into_the_frame_that_is_there(mixed, tmp_path) -> None:
    root = tmp_path / "zoo"
    write_import(plan_import(mixed, root, name="zoo", max_loss=1e-4), root)
    before = (root / "zoo.yaml").read_bytes()
    blend = adapter_of(0, 2, alpha=2)  # of the first one's rows
    write_import(plan_import([foreign("four", blend)], root, name="other"), root)
    assert (root / "zoo.yaml").read_bytes() == before
    assert Zoo.open(root).card("four").imported.energy_kept > 0.999
    stranger = foreign("five", adapter_of(9, 16, sites=Q_ALONE))
    with pytest.raises(ZooError, match="has its frame already"):
        plan_import([stranger], root, name="zoo", rank=4)
    with pytest.raises(ZooError, match="has one already; give other names"):
        plan_import([foreign("one", blend)], root, name="zoo")
    with pytest.raises(ZooError, match="is of the base tiny, the adapters of other"):
        plan_import([foreign("six", blend, base="other")], root, name="zoo")


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
        plan_import([mixed[0], foreign("two", mixed[1].adapter, base="other")], root, name="zoo")
    with pytest.raises(ZooError, match="would be called one"):
        plan_import([mixed[0], mixed[0]], root, name="zoo")


def test_sites_are_compared_with_the_base_where_its_config_is_at_hand(mixed, tmp_path) -> None:
    base = str(write_base(tmp_path / "llama", "llama"))
    (tmp_path / "llama" / "model.safetensors").unlink()
    good = [foreign(one.id, one.adapter, base=base) for one in mixed]
    assert plan_import(good, tmp_path / "zoo", name="zoo").is_checked
    assert not plan_import(mixed, tmp_path / "zoo", name="zoo").is_checked
    renamed = Lora.from_factors(
        {site.removeprefix("model."): a for site, a in mixed[0].adapter.lora_A.items()},
        {site.removeprefix("model."): b for site, b in mixed[0].adapter.lora_B.items()},
        base_model_name_or_path=base,
        task_type="CAUSAL_LM",
    )
    with pytest.raises(AdapterError, match=r"adapter bad does not fit .*prefix 'model\.'"):
        plan_import([foreign("bad", renamed, base=base)], tmp_path / "zoo", name="zoo")


def test_the_hub_is_asked_for_the_adapter_and_its_cards_alone(tmp_path, monkeypatch) -> None:
    adapter_of(0, 2).save(tmp_path / "snapshot", extra_files={"README.md": CARD.format(header="")})
    asked = []

    def download(name, *, allow_patterns):
        asked.append((name, sorted(allow_patterns)))
        return str(tmp_path / "snapshot")

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    opened = Foreign.open("hub:someone/tax-lora")
    assert asked == [
        ("someone/tax-lora", ["README.md", "adapter_config.json", "adapter_model.safetensors", "card.yaml"])
    ]
    assert (opened.id, opened.origin) == ("tax-lora", "hub:someone/tax-lora")


CARD = """---
base_model: tiny
license: apache-2.0
{header}---

# An adapter

<!-- Provide a quick summary of what the model is/does. -->

This model is a fine-tuned version of tiny.

[![badge](x.svg)](y)

| a table | of facts |
|---|---|

Answers questions about
tax law in one word.

Another paragraph follows here.
"""


@pytest.mark.parametrize(
    ("header", "told"),
    [("", "Answers questions about tax law in one word."), ("description: From the header.\n", "From the header.")],
)
def test_the_model_card_says_what_an_adapter_is_for(tmp_path, header, told) -> None:
    adapter_of(0, 2).save(tmp_path / "tax expert", extra_files={"README.md": CARD.format(header=header)})
    opened = Foreign.open(str(tmp_path / "tax expert"))
    assert (opened.id, opened.description, opened.licence) == ("tax-expert", told, "apache-2.0")
    assert (opened.base, opened.origin) == ("tiny", "tax expert")
    assert Foreign.open(str(tmp_path / "tax expert"), description="Mine.", name="mine").description == "Mine."


@pytest.mark.parametrize(
    ("card", "licence"),
    [
        ("licence: CC BY 4.0\nlabels: [a, b]", "CC BY 4.0"),
        ("parents: [{licence: MIT}, {licence: CC0}, odd, {}]", "CC0; MIT"),
    ],
)
def test_what_loragen_wrote_beside_an_adapter_says_what_it_is(tmp_path, card, licence) -> None:
    adapter_of(0, 2).save(tmp_path / "own", extra_files={"card.yaml": f"description: Sort letters.\n{card}\n"})
    opened = Foreign.open(str(tmp_path / "own"))
    assert (opened.description, opened.licence) == ("Sort letters.", licence)
    assert opened.labels == (("a", "b") if "labels" in card else ())


def test_an_adapter_of_which_nobody_says_anything_is_refused(tmp_path) -> None:
    adapter_of(0, 2).save(
        tmp_path / "mute", extra_files={"README.md": "---\n: [\n---\n# Title\n\nMore Information Needed"}
    )
    with pytest.raises(TaskError, match="Nobody says what the adapter"):
        Foreign.open(str(tmp_path / "mute"))
    adapter_of(0, 2, base=None).save(tmp_path / "baseless")
    with pytest.raises(AdapterError, match="does not name its base model; give it with --base"):
        Foreign.open(str(tmp_path / "baseless"), description="Something.")
    silent = adapter_of(0, 2)
    Lora(silent.settings, silent.lora_A, {site: 0 * b for site, b in silent.lora_B.items()}).save(tmp_path / "silent")
    with pytest.raises(AdapterError, match="does nothing"):
        Foreign.open(str(tmp_path / "silent"), description="Something.")
    with pytest.raises(AdapterError, match="Hub gave no adapter 'nobody/nothing'"):
        Foreign.open("hub:nobody/nothing")


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
        condition = Conditioner.of(generator, encoder).condition("Sort letters.")
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
