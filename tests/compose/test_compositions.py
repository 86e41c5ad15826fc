"""Compositions made, written, read back and used: like adapters, and refused where they are damaged."""

import pytest
import torch
from compose_tools import DYNAMIC, QUICK, TEXTS
from families import write_base

import loragen
from loragen.adapters.adapter import Lora
from loragen.adapters.combine import weighted_sum
from loragen.compose.composed import open_adapter
from loragen.compose.making import compose_experts
from loragen.errors import AdapterError
from loragen.inference import Adapter

LABELS = ("soup", "tea", "bread")


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
