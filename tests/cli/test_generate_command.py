import json
import shutil
from pathlib import Path

import command_line
import pytest
import torch
from command_line import files_of

from loragen.adapters.adapter import Lora
from loragen.cli.generate import GENERATORS
from loragen.generators.registry import rows

run = command_line.run


@pytest.fixture
def ask(tiny_zoo):
    return ("generate", "Route a bank's mail.", "--generator", "topk", "--zoo", tiny_zoo.root)


@pytest.fixture
def fit(toys, tmp_path):
    """The toy zoo, examples of a task of its base, and a wish to fit to them."""
    lines = (toys / "data" / "plates.train.jsonl").read_text().splitlines()[:12]
    (tmp_path / "few.jsonl").write_text("\n".join(lines))
    ask = ("generate", "Is it bread or cold?", "--generator", "topk", "--zoo", toys / "zoo", "--encoder", toys / "base")
    return (*ask, "--examples", tmp_path / "few.jsonl", "--fit")


def test_generate_writes_an_adapter_and_says_what_it_did(run, ask) -> None:
    result = run(*ask)
    assert result.status == 0
    folder = Path("adapters/route-a-bank-s-mail")
    lora = Lora.load(folder)
    assert {"adapter_config.json", "adapter_model.safetensors", "card.yaml", "README.md", ".loragen.json"} == set(
        files_of(folder)
    )
    for part in ("similarity", "weight", "bank", f"✓ {folder}: rank 2 at 3 sites", f"update norm {lora.norm():.2f}"):
        assert part in result.out
    assert result.err == ""


@pytest.mark.parametrize(
    ("labels", "trial"),
    [((), '"a text" --labels first,second\n'), (("--labels", "spam,ham"), '"a text"\n')],
)
def test_the_next_commands_are_shown_as_they_can_be_typed(run, fit, labels, trial) -> None:
    out = run(*fit[:-3], *labels, "--out", "my adapters/it").out
    assert f"Try it:     loragen classify 'my adapters/it' {trial}" in out
    assert "Judge it:   loragen evaluate 'my adapters/it' --data labelled.csv\n" in out


def test_generate_json_is_json_alone(run, ask) -> None:
    (made,) = json.loads(run(*ask, "--top-k", 2, "--labels", "spam,ham", "--json").out)
    assert len(made["parents"]) == 2
    assert (made["labels"], made["notes"]) == (["spam", "ham"], [])
    assert made["norm"] == pytest.approx(Lora.load(Path(made["folder"])).norm(), abs=1e-5)


def test_same_seed_same_bytes(run, ask) -> None:
    for out in ("one", "two"):
        run(*ask, "--out", out, "--seed", 3)
    assert files_of(Path("one")) == files_of(Path("two"))


def test_generate_does_not_replace_a_folder_unasked(run, ask) -> None:
    run(*ask, "--out", "mine")
    before = files_of(Path("mine"))
    refused = run(*ask, "--out", "mine", "--top-k", 1)
    assert refused.status == 2
    assert "--force" in refused.err
    assert files_of(Path("mine")) == before
    assert run(*ask, "--out", "mine", "--top-k", 1, "--force").status == 0
    assert files_of(Path("mine")) != before


def test_samples_lie_side_by_side_and_equal_ones_are_pointed_out(run, ask) -> None:
    result = run(*ask, "--samples", 2, "--out", "s")
    assert sorted(path.name for path in Path("s").iterdir()) == ["sample-0", "sample-1"]
    assert "! topk draws nothing at random: the 2 samples are equal." in result.out


@pytest.mark.parametrize("spelling", ["--licence", "--license"])
def test_licences_can_be_spelt_in_two_ways(run, ask, spelling) -> None:
    (made,) = json.loads(run(*ask, spelling, "mit", "--json").out)
    assert {parent["licence"] for parent in made["parents"]} == {"MIT"}


@pytest.mark.parametrize("out", ["out/[v1]", "a[/b]c", "[red]x"])
def test_folders_with_brackets_are_written_and_shown_whole(run, ask, out) -> None:
    result = run(*ask, "--out", out)
    assert result.status == 0
    assert f"✓ {out}: rank 2" in result.out
    assert Lora.load(Path(out)).norm() > 0
    refused = run(*ask, "--out", out)
    assert f"error: {out} exists already" in refused.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("  ",), "description is empty"),
        (("Mail.", "--generator", "nope"), "'nope'; this zoo has ridge, topk, uniform, nearest, mean"),
        (("Mail.", "--generator", "mean", "--top-k", 2), "does not apply to 'mean'"),
        (("Mail.", "--generator", "topk", "--licence", "none"), "licences ['none']"),
        (("Mail.", "--labels", "spam"), "--labels 'spam' gives 1 names; at least two different"),
        (("Mail.", "--labels", " spam, spam,"), "at least two different"),
        (("Mail \udce9.", "--generator", "topk"), "The task description holds the character U+DCE9"),
        (("\u200b", "--generator", "topk"), "description is empty"),
        (
            ("a" * 1_000_001, "--generator", "topk", "--out", "x"),
            "has 1,000,001 characters, and 1,000,000 are the most",
        ),
        (("Mail.", "--generator", "topk", "--label", "a,b", "--labels", "a,b"), "both name labels"),
        (("Mail.", "--generator", "topk", "--encoder", "no/model"), "no model 'no/model'"),
        (("Mail.", "--generator", "topk", "--fit"), "wants labelled examples of the task; give a file of them with"),
        (("Mail.", "--generator", "topk", "--examples", "lost.jsonl"), "lost.jsonl"),
        (("Mail.", "--generator", "topk", "--own-adapter", "[lost]"), "The adapter [lost] cannot be used"),
    ],
)
def test_generate_refuses_with_a_reason_and_status_2(run, tiny_zoo, arguments, message) -> None:
    result = run("generate", *arguments, "--zoo", tiny_zoo.root)
    assert result.status == 2
    assert message in result.err
    assert not Path("adapters").exists()


def test_a_missing_zoo_and_an_empty_zoo_are_refused(run, tiny_zoo, tmp_path) -> None:
    missing = run("generate", "Mail.", "--zoo", tmp_path / "none")
    assert missing.status == 2
    assert "There is no zoo" in missing.err
    empty = tmp_path / "empty"
    empty.mkdir()
    (empty / "zoo.yaml").write_bytes((tiny_zoo.root / "zoo.yaml").read_bytes())
    result = run("generate", "Mail.", "--zoo", empty)
    assert result.status == 2
    assert "no expert at all" in result.err


def test_experts_with_brackets_in_their_licences_are_shown_whole(run, tiny_zoo, tmp_path) -> None:
    shutil.copytree(tiny_zoo.root, tmp_path / "zoo")
    for card in (tmp_path / "zoo" / "experts").glob("*/card.yaml"):
        card.write_text(card.read_text().replace("licence: MIT", "licence: MIT [/x]"))
    result = run("generate", "Mail.", "--generator", "nearest", "--zoo", tmp_path / "zoo", "--licence", "mit [/x]")
    assert result.status == 0
    assert "MIT [/x]" in result.out


# --- examples and fitting ---


def test_a_generated_adapter_can_be_fitted_to_examples(run, fit) -> None:
    ask = fit[:-3]
    (plain,) = json.loads(run(*ask, "--out", "plain", "--json").out)
    result = run(*fit, "--labels", "bread,cold", "--out", "fitted", "--json")
    (fitted,) = json.loads(result.out)
    assert plain["fitted"] is None
    assert (fitted["examples"], fitted["labels"]) == (12, ["bread", "cold"])
    assert fitted["fitted"]["steps"] > 0
    assert result.err.splitlines()[0] == f"fitting to the examples: 1 of {fitted['fitted']['steps']}"
    assert "12 examples of the task: then fitted to the examples in" in Path("fitted/README.md").read_text()
    assert "; fitted to 12 examples; verified on disk" in run(*fit, "--out", "said").out
    assert "fitted" not in run(*ask, "--out", "unsaid").out
    one, other = (Lora.load(Path(name)) for name in ("plain", "fitted"))
    assert not torch.allclose(one.delta_weight(one.sites[0]), other.delta_weight(other.sites[0]), atol=1e-3)


def test_examples_that_would_not_be_read_are_refused_with_the_generators_that_read_them(run, fit) -> None:
    unread = run(*fit[:-1], "--out", "refused")
    assert unread.status == 2
    assert "'topk' reads no examples; add --fit to fit its adapter to them, or choose" in unread.err
    readers = [row.name for row in rows().values() if "examples" in row.evidence]
    assert unread.err.rstrip().endswith(f"that reads them: {' or '.join(readers)}.")
    unknown = run(*fit, "--labels", "bread,warm", "--out", "refused")
    assert "label 'cold', which is not among those named" in unknown.err
    assert not Path("refused").exists()


# --- merging ---


def test_the_base_with_the_adapter_merged_in_lies_beside_the_adapter(run, fit) -> None:
    from safetensors.torch import load_file

    ask = fit[:-3]
    result = run(*ask, "--out", "mine", "--merge")
    assert result.status == 0, result.err
    assert "✓ mine-merged: the base with the adapter merged in" in result.out
    lora = Lora.load(Path("mine"))
    base, merged = (load_file(Path(folder) / "model.safetensors") for folder in (ask[-1], "mine-merged"))
    for site in lora.sites:
        torch.testing.assert_close(merged[f"{site}.weight"], base[f"{site}.weight"] + lora.delta_weight(site))
    readme = Path("mine-merged/README.md").read_text()
    assert f"base_model: {ask[-1]}" in readme
    assert "with a LoRA for: Is it bread or cold?" in readme
    shutil.rmtree("mine")
    refused = run(*ask, "--out", "mine", "--merge")
    assert "mine-merged exists already" in refused.err
    assert not Path("mine").exists(), "nothing is written before all can be"


# --- help ---


def test_the_help_names_the_generators_of_the_registry() -> None:
    assert ", ".join([*rows(), "or a generator's folder"]) == GENERATORS
