"""Every family of bases: loaded, trained on, scored, and the adapter computed with by peft and merged."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from families import FAMILIES, write_base, write_task

from loragen.adapters.adapter import Lora
from loragen.bases.base import Base
from loragen.bases.open import KINDS, objective_of, open_base
from loragen.bases.tokenised import TaskData
from loragen.errors import ConfigError
from loragen.exporters.merged_model import merge_into_base
from loragen.recipes.expert import ExpertRecipe, Start
from loragen.recipes.train import train_expert


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("bases")
    return {name: write_base(root / name, name, seed=1) for name in FAMILIES}


@pytest.fixture(scope="module")
def bases(folders) -> dict[str, Base]:
    return {name: open_base(str(folders[name]), objective=FAMILIES[name].objective) for name in FAMILIES}


@pytest.fixture(scope="module", params=sorted(FAMILIES))
def family(request, folders) -> tuple[str, Path]:
    return request.param, folders[request.param]


@pytest.fixture(scope="module")
def base(family, bases) -> Base:
    return bases[family[0]]


@pytest.fixture(scope="module")
def task(family, tmp_path_factory):
    return write_task(tmp_path_factory.mktemp("tasks"), family[0])


@pytest.fixture(scope="module")
def data(task, base) -> TaskData:
    return base.prepare(task.load_test(), max_length=32)


def random_adapter(family: str, base: Base) -> Lora:
    """Random factors at the sites that experts of a family have."""
    rng = torch.Generator().manual_seed(0)
    sizes = base.sites(FAMILIES[family].target_modules)
    return Lora.from_factors(
        {site: torch.randn(2, size[1], generator=rng) for site, size in sizes.items()},
        {site: 0.3 * torch.randn(size[0], 2, generator=rng) for site, size in sizes.items()},
        base_model_name_or_path=base.name,
        task_type=base.task_type,
        fan_in_fan_out=base.stores_transposed(sizes),
    )


@pytest.fixture(scope="module")
def adapter(family, base) -> Lora:
    return random_adapter(family[0], base)


def test_an_expert_learns_its_task_and_leaves_the_base_alone(family, base, task, data) -> None:
    targets = FAMILIES[family[0]].target_modules
    before = {name: value.clone() for name, value in base.model.state_dict().items()}
    recipe = ExpertRecipe(
        objective=base.objective, r=4, target_modules=targets, steps=30, learning_rate=3e-2, max_length=32
    )
    start = Start.random(base.sites(targets), recipe.r, rng=torch.Generator().manual_seed(0))
    expert = train_expert(task, base, start, recipe)
    factors = {site: (expert.lora_A[site], b) for site, b in expert.mean.items()}
    bare = base.held_out_loss(data, contrast_weight=0)
    with base.using(factors):
        assert base.held_out_loss(data, contrast_weight=0) < 0.95 * bare
    assert all(torch.equal(value, before[name]) for name, value in base.model.state_dict().items())


def test_a_task_is_scored_under_an_adapter_and_without(base, adapter, data) -> None:
    bare, adapted = base.score(data), base.score(data, adapter)
    assert bare != adapted
    readout = base.read(data)
    assert readout.texts.shape[0] == len(data)
    assert readout.logits.shape == (len(data), 2)
    torch.testing.assert_close(readout.texts.norm(dim=1), torch.ones(len(data)))


PEFT = """
import json, sys, warnings
from pathlib import Path
import torch, transformers
from peft import PeftModel

warnings.simplefilter("error", UserWarning)  # keys that peft does not find, or flags that it corrects
for name, (kind, base) in json.loads(sys.argv[1]).items():
    folder = Path(sys.argv[2]) / name
    model = getattr(transformers, kind).from_pretrained(base).eval()
    model = PeftModel.from_pretrained(model, folder / "adapter").eval()
    with torch.no_grad():
        output = model(**torch.load(folder / "inputs.pt", weights_only=True))
    kept = next(output[key] for key in ("logits", "logits_per_image", "last_hidden_state") if key in output)
    torch.save(kept, folder / "output.pt")
"""


def model_inputs(base, data) -> dict[str, torch.Tensor]:
    if base.objective == "image_text":
        ids = torch.tensor([list(row) for row in data.label_ids[:1]])
        return {"pixel_values": base._pixels(data.ids[:3]), "input_ids": ids}
    length = min(len(row) for row in data.ids)
    ids = {"input_ids": torch.tensor([list(row)[:length] for row in data.ids[:3]])}
    return ids | {"decoder_input_ids": ids["input_ids"]} if base.objective == "seq2seq" else ids


def output_of(base, inputs) -> torch.Tensor:
    with torch.no_grad():
        output = base.model(**inputs)
    return next(output[name] for name in ("logits", "logits_per_image", "last_hidden_state") if name in output)


def test_peft_computes_what_we_compute_in_a_process_of_its_own(folders, bases, tmp_path) -> None:
    wanted = {}
    for name, base in bases.items():
        adapter, task = random_adapter(name, base), write_task(tmp_path / name / "task", name)
        adapter.save(tmp_path / name / "adapter")
        inputs = model_inputs(base, base.prepare(task.load_test(), max_length=32))
        torch.save(inputs, tmp_path / name / "inputs.pt")
        bare = output_of(base, inputs)
        with base.adapted(adapter):
            wanted[name] = output_of(base, inputs)
        assert (wanted[name] - bare).abs().max() > 1e-2, name
    told = json.dumps({name: (bases[name].model_class, str(folder)) for name, folder in folders.items()})
    done = subprocess.run([sys.executable, "-c", PEFT, told, str(tmp_path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for name, ours in wanted.items():
        theirs = torch.load(tmp_path / name / "output.pt", weights_only=True)
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4, msg=name)


def test_the_merged_base_computes_what_the_adapted_one_does(family, base, adapter, data, tmp_path) -> None:
    merge_into_base(adapter, family[1], tmp_path / "merged", readme="")
    merged = open_base(str(tmp_path / "merged"), objective=base.objective)
    with base.adapted(adapter):
        wanted = base.read(data)
    found = merged.read(data)
    torch.testing.assert_close(found.texts, wanted.texts, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(found.logits, wanted.logits, rtol=1e-4, atol=1e-3)
    assert (base.read(data).texts - wanted.texts).abs().max() > 1e-3


def test_every_task_type_leads_to_its_objective() -> None:
    assert {kind: objective_of(KINDS[kind].task_type) for kind in KINDS if kind != "image_text"} == {
        kind: kind for kind in KINDS if kind != "image_text"
    }
    assert objective_of(None) == "label_text"


@pytest.mark.parametrize(("met", "wanted"), [("bert", "seq2seq"), ("llama", "image_text")])
def test_a_base_of_another_kind_is_refused(tmp_path, met, wanted) -> None:
    base = write_base(tmp_path / met, met)
    with pytest.raises(ConfigError, match=f"{met}.*(cannot be loaded as a base for '{wanted}'|has no image tower)"):
        open_base(str(base), objective=wanted)


def test_a_device_that_is_not_there_is_refused(tmp_path) -> None:
    base = write_base(tmp_path / "llama", "llama")
    if not torch.cuda.is_available():
        with pytest.raises(ConfigError, match="'cuda' was asked for"):
            open_base(str(base), objective="causal_lm", device="cuda")
    assert open_base(str(base), objective="causal_lm", device="auto").device.type in ("cpu", "cuda", "mps")
