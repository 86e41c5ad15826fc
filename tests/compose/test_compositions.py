"""Compositions made, written, read back and used: like adapters, and refused where they are damaged."""

import shutil

import pytest
import safetensors.torch
import torch
from compose_tools import TEXTS, random_lora
from families import write_base

import loragen
from loragen.adapters.adapter import Lora
from loragen.adapters.combine import weighted_sum
from loragen.compose.composed import open_adapter
from loragen.compose.making import compose_experts
from loragen.compose.registry import ROWS, rows
from loragen.compose.stored import GATES, MANIFEST
from loragen.errors import AdapterError, ConfigError, TaskError, ZooError
from loragen.inference import Adapter

QUICK = {
    "smora": {"steps": 3, "batch_size": 8, "k": 4},
    "sema_router": {"steps": 3, "batch_size": 8},
    "brainstacks": {"texts": 4, "epochs": 1, "width": 8, "most": 2},
}
LABELS = ("soup", "tea", "bread")
DYNAMIC = [row.name for row in ROWS if row.is_dynamic]


@pytest.fixture(scope="module")
def adapters(base, experts):
    return [
        Adapter(lora, base.name, labels=("soup", "tea"), description=f"Task {n}")
        for n, lora in enumerate(experts.loras)
    ]


@pytest.fixture(scope="module")
def made(base, adapters, examples):
    """Each dynamic method, trained for a moment where it is trained."""
    found = {}
    for name in DYNAMIC:
        data = examples if rows()[name].needs == "examples" else None
        found[name] = compose_experts(adapters, method=name, data=data, settings=QUICK.get(name), base=base)
    return found


@pytest.mark.parametrize("name", DYNAMIC)
def test_what_is_read_back_classifies_as_what_was_written(made, base, tmp_path, name):
    composed = made[name].adapter
    composed.save(tmp_path / "out")
    read = loragen.compose.load(tmp_path / "out")
    assert read.composition.experts.names == ("expert-1", "expert-2", "expert-3")
    before = composed.with_base(base).classify(TEXTS, LABELS)
    assert read.with_base(base).classify(TEXTS, LABELS) == before
    assert before != composed.with_base(base).classify(TEXTS, LABELS, adapted=False)
    assert {path.suffix for path in tmp_path.rglob("*") if path.is_file()} == {".yaml", ".json", ".safetensors"}


def test_a_folder_of_either_kind_opens(made, adapters, tmp_path):
    made["arrow"].adapter.save(tmp_path / "dynamic")
    adapters[0].save(tmp_path / "static")
    assert isinstance(open_adapter(tmp_path / "dynamic"), loragen.compose.Composed)
    assert isinstance(open_adapter(tmp_path / "static"), Adapter)
    expert = Lora.load(tmp_path / "dynamic" / "experts" / "expert-1")  # PEFT's own folder
    assert torch.equal(expert.lora_A[expert.sites[0]], adapters[0].lora.lora_A[expert.sites[0]])
    with pytest.raises(AdapterError, match="dynamic composition, which is no single adapter"):
        Adapter.load(tmp_path / "dynamic")


def test_training_changes_the_gate_and_leaves_the_base_and_the_experts(made, adapters, base):
    biases = made["sema_router"].adapter.composition.tensors
    assert any(value.abs().max() > 0 for name, value in biases.items() if name.startswith("bias"))
    experts = made["sema_router"].adapter.composition.experts
    for one, other in zip(experts.loras, adapters, strict=True):
        assert torch.equal(one.lora_B[one.sites[0]], other.lora.lora_B[one.sites[0]])
    assert not any(parameter.requires_grad for parameter in base.model.parameters())


def test_training_through_the_gate_changes_the_experts(adapters, examples, base):
    options = {"steps": 3, "batch_size": 8, "train": True}
    composed = compose_experts(adapters, method="mora", data=examples, settings=options, base=base).adapter
    before = compose_experts(adapters, method="mora", base=base).adapter
    site = adapters[0].lora.sites[0]
    trained, plain = (one.composition.experts.loras[0].delta_weight(site) for one in (composed, before))
    assert not torch.allclose(trained, plain)
    assert torch.allclose(plain, adapters[0].lora.delta_weight(site), atol=1e-5)


@pytest.mark.parametrize("train_experts", [True, False])
def test_routing_to_ranks_learns(adapters, examples, base, train_experts):
    options = {"steps": 40, "batch_size": 16, "learning_rate": 3e-2, "train_experts": train_experts}
    found = {}
    for steps in (1, 40):
        settings = options | {"steps": steps}
        composed = compose_experts(adapters, method="smora", data=examples, settings=settings, base=base).adapter
        data = base.prepare(examples[0], max_length=32)
        with base.adapted(composed.composition):
            found[steps] = base.held_out_loss(data, contrast_weight=0.0)
    assert found[40] < found[1]


def test_static_methods_give_ordinary_adapters(adapters, base, tmp_path):
    uniform = compose_experts(adapters, method="uniform")
    assert isinstance(uniform.adapter, Adapter)
    assert uniform.weights == (0.333333,) * 3
    wanted = weighted_sum([one.lora for one in adapters], [1 / 3] * 3)
    site = adapters[0].lora.sites[1]
    assert torch.allclose(uniform.adapter.lora.delta_weight(site), wanted.delta_weight(site), atol=1e-6)
    uniform.adapter.save(tmp_path / "out")
    assert open_adapter(tmp_path / "out").labels == ("soup", "tea")
    assert max(site.r for site in compose_experts(adapters, method="uniform", rank=2).adapter.lora.spec.sites) == 2


def test_the_same_seed_gives_the_same_gates(adapters, examples, base, made):
    again = compose_experts(adapters, method="smora", data=examples, settings=QUICK["smora"], base=base).adapter
    for name, value in made["smora"].adapter.composition.tensors.items():
        assert torch.equal(value, again.composition.tensors[name])


def test_a_language_model_is_composed_token_by_token(tmp_path):
    folder = str(write_base(tmp_path / "llama", "llama"))
    sites = ["model.layers.0.self_attn.q_proj", "model.layers.1.self_attn.o_proj"]
    for seed in (0, 1):
        rng = torch.Generator().manual_seed(seed)
        Lora.from_factors(
            {site: torch.randn(2, 16, generator=rng) for site in sites},
            {site: torch.randn(16, 2, generator=rng) for site in sites},
            base_model_name_or_path=folder,
            task_type="CAUSAL_LM",
        ).save(tmp_path / f"expert{seed}")
    composed = compose_experts([tmp_path / "expert0", tmp_path / "expert1"], method="arrow").adapter
    composed.save(tmp_path / "out")
    read = open_adapter(tmp_path / "out")
    assert read.complete(["soup and"], max_tokens=4) == composed.complete(["soup and"], max_tokens=4)
    (prediction,) = read.classify(["soup"], ["tea", "bread"])
    assert prediction != read.classify(["soup"], ["tea", "bread"], adapted=False)[0]


# --- what is refused ---


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "none"}, "no method 'none'; choose one of uniform, description, arrow"),
        ({"method": "description"}, "task in words; give it with --description"),
        ({"method": "smora"}, "give a file for each with --data"),
        ({"method": "uniform", "data": ["x.csv"]}, "reads no labelled texts"),
        ({"method": "arrow", "rank": 2}, "--rank bears on static methods alone"),
        ({"method": "arrow", "settings": {"top_k": 0}}, "top_k: Input should be greater"),
        ({"method": "arrow", "settings": ["top_k"]}, "has no '='"),
        ({"method": "smora", "data": ["x.csv"]}, "1 files of labelled texts were given for 3 experts"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(adapters, options, message):
    with pytest.raises(ConfigError, match=message):
        compose_experts(adapters, **options)


def test_neither_experts_nor_a_task_are_refused():
    with pytest.raises(ConfigError, match="Neither experts nor a task"):
        compose_experts(method="uniform")
    with pytest.raises(ConfigError, match="No expert was named"):
        compose_experts([], method="uniform")
    with pytest.raises(ConfigError, match="give a list of names"):
        compose_experts("clinc_meta", method="uniform")


def test_unknown_experts_are_refused():
    with pytest.raises(ZooError, match=r"no expert 'clinc_metta'; did you mean 'clinc_meta'.*none at 'clinc_metta'"):
        compose_experts(["clinc_metta"], method="uniform")


def test_too_few_texts_are_refused(adapters, examples, base):
    few = [one.subset(range(2)) for one in examples]
    with pytest.raises(TaskError, match="6 labelled texts, and a batch takes 32"):
        compose_experts(adapters, method="sema_router", data=few, base=base)


@pytest.fixture
def folder(made, tmp_path):
    made["sema_router"].adapter.save(tmp_path / "out")
    return tmp_path / "out"


def _drop_expert(folder):
    shutil.rmtree(folder / "experts" / "expert-2")


def _other_method(folder):
    file = folder / MANIFEST
    file.write_text(file.read_text().replace("method: sema_router", "method: arrow").replace("settings:", "others:"))


def _climb_out(folder):
    file = folder / MANIFEST
    file.write_text(file.read_text().replace("- expert-1", "- ../expert-1"))


def _drop_gates(folder):
    (folder / GATES).unlink()


def _garble(folder):
    (folder / GATES).write_bytes(b"\x80\x04nothing")


def _not_finite(folder):
    tensors = safetensors.torch.load((folder / GATES).read_bytes())
    name = next(iter(tensors))
    safetensors.torch.save_file(tensors | {name: tensors[name] * float("nan")}, folder / GATES)


def _other_shape(folder):
    tensors = safetensors.torch.load((folder / GATES).read_bytes())
    name = next(name for name in tensors if name.startswith("router"))
    safetensors.torch.save_file(tensors | {name: tensors[name][:1].clone()}, folder / GATES)


def _link(folder):
    (folder / "experts" / "expert-1").rename(folder / "elsewhere")
    (folder / "experts" / "expert-1").symlink_to(folder / "elsewhere")


@pytest.mark.parametrize(
    "damage",
    [_drop_expert, _other_method, _climb_out, _drop_gates, _garble, _not_finite, _other_shape, _link],
)
def test_damage_is_refused_in_a_short_message(folder, damage):
    damage(folder)
    with pytest.raises(AdapterError) as caught:
        open_adapter(folder)
    assert len(str(caught.value)) < 900


def test_files_that_are_too_large_are_not_read(folder, monkeypatch):
    monkeypatch.setattr("loragen.compose.stored.LARGEST_GATES", 10)
    with pytest.raises(AdapterError, match="at most 10 were wanted"):
        open_adapter(folder)


def test_gates_of_other_weights_are_refused(made, base, tmp_path):
    from dataclasses import replace

    other = replace(made["sema_router"].adapter, base_hash="0" * 64)
    with pytest.raises(AdapterError, match="trained on weights 000000000000"):
        other.with_base(base)


def test_a_static_method_is_no_composition(experts):
    from loragen.compose.composition import Composition
    from loragen.compose.methods.uniform import Uniform

    with pytest.raises(AdapterError, match="is static"):
        Composition("uniform", Uniform(), experts, {})


def test_a_folder_that_is_there_is_kept(made, folder):
    with pytest.raises(ConfigError, match="exists already"):
        made["arrow"].adapter.save(folder)
    made["arrow"].adapter.save(folder, force=True)
    assert open_adapter(folder).composition.method == "arrow"
    assert not (folder / "elsewhere").exists()


def test_an_expert_that_lacks_a_description_is_named(base):
    from loragen.compose.given import GivenExpert, similarities

    silent = GivenExpert("mute", Adapter(random_lora(base, 0), base.name))
    with pytest.raises(AdapterError, match="mute has no description"):
        similarities([silent], "a task", "none", None)
