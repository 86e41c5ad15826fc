"""`loragen base prune`, an adapter trained on what it writes, and `loragen recover`."""

import json
import shutil
from pathlib import Path

import command_line
import pytest
import torch
from models import write_tiny_encoder

from loragen.adapters.adapter import Lora
from loragen.adapters.index_map import IndexMap
from loragen.adapters.recover import recover
from loragen.config import dump_yaml

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
anywhere = command_line.run
SITES = ("encoder.layer.0.attention.self.query", "encoder.layer.1.output.dense", "encoder.layer.1.intermediate.dense")


@pytest.fixture
def run(anywhere):
    """The command line in a folder with a base ``full``, pruned to ``small``, and an ``adapter`` of that."""
    write_tiny_encoder(Path("full"), seed=1)
    assert anywhere("base", "prune", "full", "--out", "small", "--neurons", ".25").status == 0
    sizes = IndexMap.load(Path("small")).sites
    rng = torch.Generator().manual_seed(0)
    Lora.from_factors(
        {site: torch.randn(2, sizes[site].pruned_size[1], generator=rng) for site in SITES},
        {site: torch.randn(sizes[site].pruned_size[0], 2, generator=rng) for site in SITES},
        base_model_name_or_path="small",
        task_type="FEATURE_EXTRACTION",
    ).save(Path("adapter"), extra_files={"card.yaml": dump_yaml({"description": "Drinks.", "labels": ["soup", "tea"]})})
    return anywhere


def test_pruning_says_what_was_kept(run):
    made = run("base", "prune", "full", "--out", "new", "--neurons", ".5")
    assert made.words.startswith("✓ new: 16 of 32 neurons and 2 of 2 heads a layer, ")
    told = json.loads(run("base", "prune", "full", "--out", "new", "--neurons", ".5", "--force", "--json").out)
    assert told["folder"] == "new"
    assert told["kept"]["neurons"] == 16
    assert told["all_parameters"] - told["parameters"] == 2 * 16 * 33
    shown = run("base", "show", "new")
    assert shown.status == 0
    assert f"parameters {told['parameters']:,}" in shown.words or "LoRA targets" in shown.words


def test_the_map_is_found_in_the_folder_of_the_base_and_kept_along(run):
    made = run("recover", "adapter", "--out", "out")
    assert (made.status, made.err) == (0, "")
    assert made.out.startswith("✓ out: rank 2 at 3 sites of full; verified on disk; ")
    kept = IndexMap.load(Path("small"))
    read, wanted = Lora.load(Path("out")), recover(Lora.load(Path("adapter")), kept)
    assert read.settings.base_model_name_or_path == "full"
    assert all(torch.equal(read.delta_weight(site), wanted.delta_weight(site)) for site in SITES)
    assert IndexMap.load(Path("out")) == kept
    assert "soup" in Path("out/card.yaml").read_text()
    assert run("check", "out").status == 0
    assert run("classify", "out", "warm soup").status == 0
    again = json.loads(run("recover", "adapter", "--out", "out", "--force", "--json").out)
    assert (again["base"], again["sites"], again["r"]) == ("full", 3, 2)


def test_a_map_that_was_moved_is_given_or_lies_beside_the_adapter(run):
    shutil.move("small/pruned.json", "moved.json")
    lost = run("recover", "adapter", "--out", "out")
    assert lost.status == 2
    assert "no pruned.json beside the adapter, nor in the folder of its base 'small'" in lost.err
    assert run("recover", "adapter", "--map", "moved.json", "--out", "out").status == 0
    shutil.move("moved.json", "adapter/pruned.json")
    assert run("recover", "adapter", "--out", "beside").status == 0
    assert Path("out/adapter_model.safetensors").read_bytes() == Path("beside/adapter_model.safetensors").read_bytes()


def test_another_name_of_the_full_base_is_taken_and_other_weights_are_told_of(run):
    shutil.move("full", "elsewhere")
    assert run("recover", "adapter", "--out", "out", "--base", "elsewhere").status == 0
    assert Lora.load(Path("out")).settings.base_model_name_or_path == "elsewhere"
    assert IndexMap.load(Path("out")).base == "elsewhere"
    write_tiny_encoder(Path("full"), seed=2)
    warned = run("recover", "adapter", "--out", "warned")
    assert warned.status == 0
    assert "the base full has other weights than the one that was pruned" in warned.words


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("adapter", "--map", "nowhere.json"), "no index map file nowhere.json"),
        (("adapter", "--map", "full/config.json"), "is no index map"),
        (("adapter", "--map", "other"), "where the pruned base of the index map maps"),
        (("nowhere",), "nowhere cannot be used"),
        (("recovered",), "sizes of the full base"),
    ],
)
def test_mistakes_end_with_status_2_and_nothing_written(run, arguments, said):
    run("base", "prune", "full", "--out", "other", "--neurons", ".5")
    run("recover", "adapter", "--out", "recovered")
    refused = run("recover", *arguments, "--out", "out")
    assert refused.status == 2
    assert said in refused.err
    assert not Path("out").exists()


def test_what_is_read_is_not_written_over(run):
    assert run("base", "prune", "small", "--out", "smallest").status == 0  # of a full base that loragen wrote, too
    site = "encoder.layer.0.attention.self.query"
    factors = {site: torch.ones(2, 16)}, {site: torch.ones(16, 2)}
    Lora.from_factors(*factors, base_model_name_or_path="smallest").save(Path("of the smallest"))
    for read in ("small", "smallest", "of the smallest"):
        before = {path: path.read_bytes() for path in Path(read).rglob("*") if path.is_file()}
        refused = run("recover", "of the smallest", "--out", read, "--force")
        assert refused.status == 2
        assert "which is read; give another --out" in refused.err
        assert all(path.read_bytes() == content for path, content in before.items())


def test_shares_that_cannot_be_pruned_are_refused(run):
    for arguments, said in (
        (("--neurons", "1"), "share of neurons to prune is 1.0"),
        (("--heads", ".5"), "has no place for heads"),
        (("--neurons", "-1"), "share of neurons"),
    ):
        refused = run("base", "prune", "full", "--out", "new", *arguments)
        assert (refused.status, refused.err.count("\n")) == (2, 1)
        assert said in refused.err
        assert not Path("new").exists()
