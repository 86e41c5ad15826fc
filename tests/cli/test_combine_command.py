import json
from pathlib import Path

import command_line
import pytest
import torch
from models import tiny_bert

from loragen.adapters.adapter import Lora
from loragen.adapters.combine import combined
from loragen.adapters.settings import LoraSettings

# PEFT asks transformers for an attribute that transformers has renamed.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")

QUERY, DENSE = "encoder.layer.1.attention.self.query", "encoder.layer.0.output.dense"
SHAPES = {QUERY: (16, 16), DENSE: (16, 32)}  # (out, in) in tiny_bert


anywhere = command_line.run


@pytest.fixture
def run(anywhere):
    """Run `loragen combine` in a folder with the adapters ``one`` and ``two``."""
    make(1, r=2, sites=(QUERY, DENSE)).save(Path("one"))
    make(2, r=4, sites=(QUERY,), use_rslora=True).save(Path("two"))
    return lambda *arguments: anywhere("combine", *arguments)


def make(seed, *, r, sites, **options):
    rng = torch.Generator().manual_seed(seed)
    return Lora(
        LoraSettings(r=r, lora_alpha=3, target_modules=sites, **({"base_model_name_or_path": "tiny"} | options)),
        {site: torch.randn(r, SHAPES[site][1], generator=rng) for site in sites},
        {site: torch.randn(SHAPES[site][0], r, generator=rng) for site in sites},
    )


def deltas_by_peft(folder):
    from peft import PeftModel

    model = PeftModel.from_pretrained(tiny_bert(), folder)
    read = Lora.load(Path(folder)).sites
    return {site: model.base_model.model.get_submodule(site).get_delta_weight("default").detach() for site in read}


def test_peft_reads_the_weighted_sum_that_was_asked_for(run):
    one, two = (Lora.load(Path(name)) for name in ("one", "two"))
    for arguments, (first, second) in (((), (0.5, 0.5)), (("--weights", "-.6,.4", "--scale", 2), (-1.2, 0.8))):
        assert run("one", "two", "--out", "sum", "--force", *arguments)[0] == 0
        met = deltas_by_peft("sum")
        wanted = {
            QUERY: first * one.delta_weight(QUERY) + second * two.delta_weight(QUERY),
            DENSE: first * one.delta_weight(DENSE),
        }
        assert met.keys() == wanted.keys()
        assert all(torch.allclose(met[site], wanted[site], atol=1e-5) for site in wanted)


@pytest.mark.parametrize("method", ["ties", "dare"])
def test_every_option_arrives_at_the_merge(run, method):
    ask = ("one", "two", "--method", method, "--weights", "1,.5", "--scale", ".7", "--rank", "3", "--seed", "9")
    assert run(*ask, "--density", ".4", "--out", "set")[0] == 0
    assert run(*ask, "--out", "default")[0] == 0
    adapters = [Lora.load(Path(name)) for name in ("one", "two")]
    for folder, density in (("set", 0.4), ("default", 0.2)):
        rng = torch.Generator().manual_seed(9)
        merged = combined(adapters, [1, 0.5], method=method, density=density, scale=0.7, rank=3, rng=rng)
        met = deltas_by_peft(folder)
        assert all(torch.allclose(met[site], merged.adapter.delta_weight(site), atol=1e-5) for site in SHAPES)


def test_what_was_written_is_said_and_printed_as_json(run):
    ask = ("one", "two", "--rank", "3")
    status, out, err = run(*ask, "--out", "said")
    assert (status, err) == (0, "")
    made = json.loads(run(*ask, "--out", "json", "--json")[1])
    read = Lora.load(Path("json"))
    full = combined([Lora.load(Path(name)) for name in ("one", "two")], [0.5, 0.5], rng=torch.Generator())
    assert {key: made[key] for key in ("folder", "method", "weights", "sites", "r")} == {
        "folder": "json",
        "method": "sum",
        "weights": [0.5, 0.5],
        "sites": 2,
        "r": 3,
    }
    assert made["norm"] == pytest.approx(read.norm(), abs=1e-5)
    assert made["energy_kept"] == pytest.approx(read.norm() ** 2 / full.adapter.norm() ** 2, abs=1e-5)
    assert 0.5 < made["energy_kept"] < 0.999
    for part in ("said", "rank 3 at 2 sites", f"{made['energy_kept']:.1%}", f"norm {read.norm():.2f}"):
        assert part in out


def test_one_adapter_alone_is_squeezed_to_a_rank_or_an_energy(run):
    one = Lora.load(Path("two"))
    left, singular, right = torch.linalg.svd(one.delta_weight(QUERY), full_matrices=False)
    for arguments, rank in ((("--rank", 2), 2), (("--energy", 0.5), 2), (("--energy", 1), 4)):
        share = float(singular[:rank].square().sum() / singular.square().sum())
        made = json.loads(run("two", *arguments, "--out", "small", "--force", "--json")[1])
        assert made["r"] == rank
        assert made["energy_kept"] == pytest.approx(share, abs=1e-5)
        best = left[:, :rank] * singular[:rank] @ right[:rank]
        assert torch.allclose(deltas_by_peft("small")[QUERY], best, atol=1e-4)
    said = run("two", "--rank", 2, "--out", "said").out
    assert said.startswith("! said: rank 2 at 1 sites holds ")
    assert "of the adapter's energy; a larger --rank keeps more." in said
    least = run("two", "--rank", 1, "--out", "least").out
    assert "so most of it is lost; give a larger --rank, or none, which is exact." in least
    asked = run("two", "--energy", 0.5, "--out", "asked").out
    assert asked.startswith("✓ asked: a rank of up to 2 at 1 sites holds ")


def test_a_folder_is_replaced_only_with_force(run):
    run("one", "--out", "mine")
    before = Path("mine/adapter_model.safetensors").read_bytes()
    status, _, err = run("two", "--out", "mine")
    assert (status, Path("mine/adapter_model.safetensors").read_bytes()) == (2, before)
    assert "--force" in err
    assert run("two", "--out", "mine", "--force")[0] == 0
    assert Path("mine/adapter_model.safetensors").read_bytes() != before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--weights", "1"), "one weight an adapter, and at least one; met 2 and 1"),
        (("--weights", "1,2,3"), "met 2 and 3"),
        (("--weights", "1,x"), "'1,x' is no list of numbers"),
        (("--weights", "0,0"), "leaves the base unchanged"),
        (("--method", "slerp"), "no merge 'slerp'"),
        (("--density", ".2"), "--density does not apply to --method sum"),
        (("--method", "ties", "--density", "0"), "density is 0.0"),
        (("--rank", "0"), "--rank"),
        (("--energy", "1.5"), "energy to keep is 1.5"),
        (("--energy", ".5", "--rank", "2"), "Both a rank and an energy were given"),
        (("nowhere",), "nowhere cannot be used"),
    ],
)
def test_mistakes_end_with_status_2_and_nothing_written(run, arguments, message):
    status, _, err = run("one", "two", *arguments, "--out", "new")
    assert status == 2
    assert message in err
    assert not Path("new").exists()


def test_an_adapter_that_does_not_read_back_is_told_of(run, monkeypatch):
    save = Lora.save
    monkeypatch.setattr(Lora, "save", lambda adapter, folder, **_: save(Lora.load(Path("one")), folder))
    status, _, err = run("two", "--out", "new")
    assert status == 2
    assert "new does not read back as it was written" in err


def test_a_merge_that_loses_much_is_warned_of(run):
    dare = run("one", "two", "--method", "dare", "--rank", 1, "--out", "dare")
    assert (dare.status, dare.err) == (0, "")
    assert dare.out.startswith("! dare: rank 1 at 2 sites holds ")
    assert "so most of what dare makes is lost; give a larger --rank, or --method sum, which is exact." in dare.out
    some = run("one", "two", "--rank", 2, "--out", "some").out
    assert some.startswith("! some: rank 2 at 2 sites holds ")
    assert some.rstrip().endswith("; a larger --rank keeps more.")
    whole = run("one", "two", "--out", "[whole]").out
    assert whole.startswith("✓ [whole]: rank 6 at 2 sites holds 100.0% of the merge's energy; verified on disk; ")


def test_base_makes_adapters_that_name_different_bases_go_together(run):
    make(3, r=2, sites=(QUERY,), base_model_name_or_path="other").save(Path("other"))
    refused = run("one", "other", "--out", "new")
    assert refused.status == 2
    assert "must share their base model" in refused.err
    assert run("one", "other", "--base", "tiny", "--out", "new").status == 0
    assert Lora.load(Path("new")).settings.base_model_name_or_path == "tiny"
