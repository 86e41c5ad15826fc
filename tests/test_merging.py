import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from models import tiny_bert, tiny_gpt2, write_tiny_encoder

from loragen.adapter import Adapter, LoraSettings
from loragen.errors import AdapterError
from loragen.merging import merge_into_base, truncated, weighted_sum

# PEFT asks transformers for an attribute that transformers has renamed.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")

QUERY, VALUE = (f"encoder.layer.1.attention.self.{name}" for name in ("query", "value"))
DENSE = "encoder.layer.0.output.dense"
SHAPES = {QUERY: (16, 16), VALUE: (16, 16), DENSE: (16, 32)}  # (out, in) in tiny_bert
TEXTS = ["warm soup", "a cold cup of tea, please.", "bread"]


def make(seed, ranks=None, lora_A=None, base="tiny", **options):
    """An adapter with random factors, or over a given A."""
    ranks = {site: len(a) for site, a in lora_A.items()} if lora_A else ranks or dict.fromkeys(SHAPES, 3)
    r = next(iter(ranks.values()))
    settings = LoraSettings(
        r=r,
        lora_alpha=options.pop("lora_alpha", r),
        target_modules=tuple(ranks),
        base_model_name_or_path=base,
        rank_pattern={site: rank for site, rank in ranks.items() if rank != r},
        **options,
    )
    rng = torch.Generator().manual_seed(seed)
    a = lora_A or {site: 0.3 * torch.randn(rank, SHAPES[site][1], generator=rng) for site, rank in ranks.items()}
    b = {site: 0.3 * torch.randn(SHAPES[site][0], rank, generator=rng) for site, rank in ranks.items()}
    return Adapter(settings, a, b)


def shared(**options):
    lora_A = make(0).lora_A
    return [make(seed, lora_A=lora_A, **options) for seed in (1, 2, 3)]


def independent(**options):
    return [make(seed, **options) for seed in (1, 2, 3)]


def mixed(**options):
    return [
        make(1, {QUERY: 2, VALUE: 1, DENSE: 4}, lora_alpha=8, **options),
        make(2, {QUERY: 1, VALUE: 2}, lora_alpha=3, use_rslora=True, **options),
        make(3, {QUERY: 3, DENSE: 3}, lora_alpha=2, alpha_pattern={"query": 5}, use_rslora=True, **options),
    ]


KINDS = {"shared A": shared, "independent": independent, "mixed": mixed}


def dense_sum(adapters, weights):
    total = {}
    for adapter, weight in zip(adapters, weights, strict=True):
        for site in adapter.sites:
            b, a = adapter.lora_B[site].double(), adapter.lora_A[site].double()
            total[site] = total.get(site, 0) + weight * adapter.settings.scaling(site) * b @ a
    return total


def is_update(adapter, wanted, atol=1e-5):
    return set(adapter.sites) == set(wanted) and all(
        torch.allclose(adapter.delta_weight(site).double(), wanted[site].double(), atol=atol) for site in wanted
    )


@pytest.mark.parametrize("kind", KINDS)
@given(weights=st.lists(st.floats(-3, 3), min_size=3, max_size=3), order=st.permutations(range(3)))
def test_a_weighted_sum_is_the_sum_of_updates_in_any_order(kind, weights, order):
    adapters = KINDS[kind]()
    merged = weighted_sum([adapters[i] for i in order], [weights[i] for i in order])
    assert is_update(merged, dense_sum(adapters, weights), atol=1e-4)


def test_ranks_stay_over_a_shared_a_and_add_up_elsewhere():
    assert {site.r for site in weighted_sum(shared(), [1, 2, 3]).spec.sites} == {3}
    assert {site.r for site in weighted_sum(independent(), [1, 2, 3]).spec.sites} == {9}
    ranks = {site.name: site.r for site in weighted_sum(mixed(), [1, 2, 3]).spec.sites}
    assert ranks == {QUERY: 6, VALUE: 3, DENSE: 7}


@pytest.mark.parametrize("kind", KINDS)
def test_one_of_one_is_itself(kind):
    for adapter in KINDS[kind]():
        merged = weighted_sum([adapter], [1.0])
        assert merged.spec.difference(adapter.spec) is None
        assert is_update(merged, {site: adapter.delta_weight(site) for site in adapter.sites}, atol=1e-6)


def test_what_is_said_of_the_base_is_kept():
    adapters = independent(task_type="FEATURE_EXTRACTION", fan_in_fan_out=True)
    for merged in (weighted_sum(adapters, [1, 1, 1]), truncated(adapters[0], 2)):
        assert merged.settings.base_model_name_or_path == "tiny"
        assert merged.settings.task_type == "FEATURE_EXTRACTION"
        assert merged.settings.fan_in_fan_out
        assert torch.equal(merged.weight_update(DENSE), merged.delta_weight(DENSE).T)


def test_averaging_the_factors_apart_is_not_the_mean_update():
    adapters = independent()
    apart = Adapter(
        adapters[0].settings,
        {site: torch.stack([adapter.lora_A[site] for adapter in adapters]).mean(0) for site in SHAPES},
        {site: torch.stack([adapter.lora_B[site] for adapter in adapters]).mean(0) for site in SHAPES},
    )
    wanted = dense_sum(adapters, [1 / 3] * 3)
    assert is_update(weighted_sum(adapters, [1 / 3] * 3), wanted)
    error = math.sqrt(sum((apart.delta_weight(site) - wanted[site]).square().sum() for site in wanted))
    assert error > 0.5 * math.sqrt(sum(delta.square().sum() for delta in wanted.values()))


def peft_merge(adapters, weights, combination_type, tmp_path):
    """Delta weights of what PEFT's add_weighted_adapter makes of some adapters."""
    from peft import PeftModel

    for i, adapter in enumerate(adapters):
        adapter.save(tmp_path / str(i))
    model = PeftModel.from_pretrained(tiny_bert(), tmp_path / "0", adapter_name="0")
    for i in range(1, len(adapters)):
        model.load_adapter(tmp_path / str(i), str(i))
    names = [str(i) for i in range(len(adapters))]
    model.add_weighted_adapter(names, weights, "merged", combination_type=combination_type)
    return {
        site: model.base_model.model.get_submodule(site).get_delta_weight("merged").detach()
        for site in adapters[0].sites
    }


def test_pefts_cat_is_the_same_merge(tmp_path):
    adapters, weights = independent(lora_alpha=5), [0.5, 0.3, 0.2]
    assert is_update(weighted_sum(adapters, weights), peft_merge(adapters, weights, "cat", tmp_path))


@pytest.mark.parametrize("kind", ["shared A", "independent"])
def test_pefts_linear_differs_since_it_sums_the_factors_apart(tmp_path, kind):
    adapters, weights = KINDS[kind](), [0.5, 0.3, 0.2]
    by_peft = peft_merge(adapters, weights, "linear", tmp_path)
    merged = weighted_sum(adapters, weights)
    for site, delta in by_peft.items():
        # (Σ √wᵢ Bᵢ)(Σ √wᵢ Aᵢ): products of one adapter's B with another one's A come in.
        b, a = (
            sum(
                math.sqrt(weight) * getattr(adapter, name)[site]
                for adapter, weight in zip(adapters, weights, strict=True)
            )
            for name in ("lora_B", "lora_A")
        )
        assert torch.allclose(delta, b @ a, atol=1e-5)
        assert (delta - merged.delta_weight(site)).norm() > 0.3 * merged.delta_weight(site).norm()


@pytest.mark.parametrize(("adapters", "weights"), [([], []), (shared(), [1.0]), (shared()[:1], [0.5, 0.5])])
def test_one_weight_an_adapter_is_wanted(adapters, weights):
    with pytest.raises(AdapterError, match=f"one weight an adapter.*met {len(adapters)} and {len(weights)}"):
        weighted_sum(adapters, weights)


def test_adapters_of_other_bases_or_shapes_are_refused():
    with pytest.raises(AdapterError, match=r"share their base model.*'other', 'tiny'"):
        weighted_sum([make(1), make(2, base="other")], [1, 1])
    odd = Adapter.from_factors({QUERY: torch.ones(2, 8)}, {QUERY: torch.ones(16, 2)}, base_model_name_or_path="tiny")
    with pytest.raises(AdapterError, match=rf"agree on '{QUERY}'.*\(16, 8\), \(16, 16\)"):
        weighted_sum([make(1), odd], [1, 1])


# --- truncation -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("r", [1, 2, 5])
@pytest.mark.parametrize("kind", KINDS)
def test_truncation_is_that_of_a_dense_svd(kind, r):
    adapters = KINDS[kind](lora_alpha=5) if kind != "mixed" else mixed()
    for whole in (*adapters, weighted_sum(adapters, [0.7, -0.2, 0.5])):
        cut = truncated(whole, r)
        for site in whole.sites:
            left, singular, right = torch.linalg.svd(whole.delta_weight(site).double(), full_matrices=False)
            best = left[:, :r] * singular[:r] @ right[:r]
            assert torch.allclose(cut.delta_weight(site).double(), best, atol=1e-5)
            assert cut.lora_A[site].shape[0] == min(r, whole.lora_A[site].shape[0])


def test_truncation_to_the_full_rank_changes_nothing_even_beyond_the_sizes_of_the_module():
    merged = weighted_sum([make(seed, {DENSE: 13}, lora_alpha=3) for seed in range(4)], [1, 2, 3, 4])
    assert merged.lora_A[DENSE].shape == (52, 32)
    cut = truncated(merged, 100)
    assert cut.lora_A[DENSE].shape == (16, 32)
    assert (cut.delta_weight(DENSE) - merged.delta_weight(DENSE)).norm() < 1e-5 * merged.norm()


# --- merging into the base ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return write_tiny_encoder(tmp_path_factory.mktemp("models") / "tiny")


def by_peft(adapter, model, folder):
    """Weights of a base with an adapter that PEFT merged into it."""
    from peft import PeftModel

    adapter.save(folder)
    return PeftModel.from_pretrained(model, folder).merge_and_unload().state_dict()


def assert_weights(model, wanted):
    state = model.state_dict()
    assert state.keys() == wanted.keys()
    assert all(value.dtype == torch.float32 for value in state.values())
    assert all(torch.allclose(state[name], wanted[name], atol=1e-6) for name in wanted)


@pytest.mark.parametrize("adapter", mixed())
def test_a_merged_folder_loads_and_gives_the_adapted_embeddings(base, tmp_path, adapter, capfd):
    from sentence_transformers import SentenceTransformer
    from transformers import AutoModel

    from loragen.backbone import Backbone
    from loragen.embedding import quiet_loading

    out = tmp_path / "deep" / "merged"
    merge_into_base(adapter, base, out)
    assert capfd.readouterr() == ("", "")
    backbone = Backbone.load(str(base))
    with backbone.adapted(adapter):
        wanted = backbone.encode(backbone.tokenize(TEXTS, max_length=64))
    with quiet_loading():
        met = SentenceTransformer(str(out), device="cpu").encode(TEXTS, convert_to_tensor=True, show_progress_bar=False)
        bare = SentenceTransformer(str(base), device="cpu").encode(
            TEXTS, convert_to_tensor=True, show_progress_bar=False
        )
        model = AutoModel.from_pretrained(out)
    assert torch.allclose(met, wanted, atol=1e-5)
    assert not torch.allclose(bare, wanted, atol=1e-2)
    assert_weights(model, by_peft(adapter, tiny_bert(), tmp_path / "adapter"))


def test_weights_kept_the_other_way_round_are_merged_too(tmp_path):
    from transformers import AutoModel

    tiny_gpt2().transformer.save_pretrained(tmp_path / "base")
    sites = {"h.0.attn.c_proj": (16, 16), "h.1.mlp.c_fc": (64, 16)}
    rng = torch.Generator().manual_seed(0)
    adapter = Adapter.from_factors(
        {site: torch.randn(2, columns, generator=rng) for site, (_, columns) in sites.items()},
        {site: torch.randn(rows, 2, generator=rng) for site, (rows, _) in sites.items()},
        base_model_name_or_path="tiny",
        fan_in_fan_out=True,
    )
    merge_into_base(adapter, tmp_path / "base", tmp_path / "merged")
    wanted = by_peft(adapter, tiny_gpt2().transformer, tmp_path / "adapter")
    assert_weights(AutoModel.from_pretrained(tmp_path / "merged"), wanted)


def test_a_base_in_half_precision_and_in_shards_becomes_one_float32_file(tmp_path):
    from transformers import AutoModel

    base = tmp_path / "base"
    tiny_bert().bfloat16().save_pretrained(base, max_shard_size="4KB")
    assert len(list(base.glob("*.safetensors"))) > 1
    adapter = make(1)
    merge_into_base(adapter, base, tmp_path / "merged")
    names = {path.name for path in (tmp_path / "merged").iterdir()}
    assert {name for name in names if "safetensors" in name} == {"model.safetensors"}
    model = AutoModel.from_pretrained(tmp_path / "merged")
    assert_weights(model, by_peft(adapter, tiny_bert().bfloat16().float(), tmp_path / "adapter"))


def test_files_beside_the_weights_are_copied_and_old_weights_are_not(tmp_path):
    base = write_tiny_encoder(tmp_path / "base")
    kept = {"README.md", "vocab.txt", "tokenizer.json", "modules.json", "1_Pooling/config.json"}
    kept |= {"2_Dense/model.safetensors", "2_Dense/pytorch_model.bin"}
    stale = {"pytorch_model.bin", "tf_model.h5", "model.safetensors.index.json", "onnx/model.onnx", ".cache/ref"}
    for name in (kept | stale) - {str(path.relative_to(base)) for path in base.rglob("*")}:
        (base / name).parent.mkdir(exist_ok=True)
        (base / name).write_text(f"this is {name}")
    (base / "tokenizer.json").chmod(0o444)
    before = {path: path.read_bytes() for path in base.rglob("*") if path.is_file()}
    out = tmp_path / "merged"
    merge_into_base(make(1), base, out)
    met = {str(path.relative_to(out)): path for path in out.rglob("*") if path.is_file()}
    assert all(met[name].read_bytes() == (base / name).read_bytes() for name in kept)
    assert not stale & met.keys()
    assert met["model.safetensors"].read_bytes() != before[base / "model.safetensors"]
    assert met["tokenizer.json"].stat().st_mode & 0o200, "what was written can be written again"
    assert before == {path: path.read_bytes() for path in base.rglob("*") if path.is_file()}


def other_bases():
    shapes = {
        "encoder.layer.7.attention.self.query": ((16, 16), "does not have"),
        "encoder.layer.0.attention": ((16, 16), "does not have"),
        DENSE: ((16, 16), r"is \(16, 16\), but the weight of the base base there is \(16, 32\)"),
    }
    return [
        (
            Adapter.from_factors(
                {QUERY: torch.ones(1, 16), site: torch.ones(1, columns)},
                {QUERY: torch.ones(16, 1), site: torch.ones(rows, 1)},
                base_model_name_or_path="other",
            ),
            f"{site}.*{message}",
        )
        for site, ((rows, columns), message) in shapes.items()
    ]


@pytest.mark.parametrize(("adapter", "message"), other_bases())
def test_an_adapter_of_another_base_is_refused_and_nothing_is_written(tmp_path, adapter, message):
    base, out = tmp_path / "base", tmp_path / "out"
    tiny_bert().save_pretrained(base)
    with pytest.raises(AdapterError, match=message):
        merge_into_base(adapter, base, out / "merged")
    assert not out.exists()
    (out / "merged").mkdir(parents=True)
    (out / "merged" / "old.txt").write_text("old")
    with pytest.raises(AdapterError, match=message):
        merge_into_base(adapter, base, out / "merged")
    assert [path.name for path in out.rglob("*")] == ["merged", "old.txt"]
