import pytest
from made_adapters import DOWN, KEY, QUERY, everywhere, make, write_configs

from loragen.bases.architecture import Architecture
from loragen.exporters.compatibility import verdicts
from loragen.exporters.lorax_rules import LORAX_MODULES, judge_lorax
from loragen.exporters.peft_loading import PeftLoading
from loragen.exporters.vllm_rules import VLLM_RANKS, judge_vllm


@pytest.fixture(scope="module")
def bases(tmp_path_factory):
    return write_configs(tmp_path_factory.mktemp("bases"))


@pytest.fixture(scope="module")
def llama(bases):
    return Architecture.of(str(bases / "LlamaForCausalLM"))


@pytest.fixture(scope="module")
def gpt2(bases):
    return Architecture.of(str(bases / "GPT2LMHeadModel"))


# --- vLLM -------------------------------------------------------------------------------------------------------------


def by_vllm(adapter, base, **changes):
    return judge_vllm(adapter, adapter.settings.to_config() | changes, base)


def test_vllm_serves_a_plain_adapter_of_a_decoder(llama, bases):
    assert by_vllm(make(*everywhere(QUERY, KEY)), llama) == verdicts(make(*everywhere(QUERY, KEY)), base=llama)[1]
    for adapter in (make(*everywhere(QUERY)), make(QUERY.format(0), r=8, lora_alpha=3, use_rslora=True)):
        verdict = by_vllm(adapter, llama)
        assert (verdict.loads, verdict.problems, verdict.notes) == (True, (), ())
    assert by_vllm(make(QUERY.format(0)), Architecture.of(str(bases / "Qwen3ForCausalLM"))).notes == ()


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"r": None}, "does not say r; add it"),
        ({"lora_alpha": None}, "does not say lora_alpha; add it"),
        ({"target_modules": None}, "does not say target_modules; add it"),
        ({"modules_to_save": ["lm_head"]}, "refuses modules_to_save=['lm_head']; `loragen merge ADAPTER"),
        ({"use_dora": True}, "refuses use_dora=True; `loragen merge ADAPTER"),
        ({"bias": "lora_only"}, "refuses bias='lora_only'; `loragen merge ADAPTER"),
    ],
)
def test_vllm_refuses_what_its_helper_refuses(llama, changes, problem):
    verdict = by_vllm(make(QUERY.format(0)), llama, **changes)
    assert not verdict.loads
    (met,) = verdict.problems
    assert problem in met


@pytest.mark.parametrize(("rank", "room"), [(16, None), (17, 32), (64, 64), (300, 320), (512, 512)])
def test_vllm_is_told_to_make_room_for_the_largest_rank(llama, rank, room):
    a, b = QUERY.format(0), QUERY.format(1)
    verdict = by_vllm(make(a, b, r=8, ranks={b: rank}, alpha_pattern={b: rank}), llama)
    assert verdict.loads
    assert not verdict.problems
    wanted = () if room is None else (f"rank {rank} needs --max-lora-rank {room}, since 16 is the default",)
    assert verdict.notes == wanted
    assert room is None or room in VLLM_RANKS


def test_vllm_takes_no_rank_above_its_last(llama):
    verdict = by_vllm(make(QUERY.format(0), r=513), llama)
    assert not verdict.loads
    assert "`loragen combine ADAPTER --rank 512 --out OUT` lowers it" in verdict.problems[0]


@pytest.mark.parametrize("judge", [by_vllm, judge_lorax])
def test_patterns_that_change_the_scaling_are_not_honoured(llama, judge):
    a, b = everywhere(QUERY)
    for pattern in ({"alpha_pattern": {b: 32}}, {"alpha_pattern": {"q_proj": 32}}):
        verdict = judge(make(a, b, **pattern), llama)
        assert verdict.loads
        assert "would scale" in verdict.problems[0]
        assert "by 1 instead of 2; `loragen combine ADAPTER --out OUT`" in verdict.problems[0]
    uneven = make(a, b, r=16, ranks={b: 8})
    assert f"scale {b!r} by 1 instead of 2" in " ".join(judge(uneven, llama).problems)
    for settled in (make(a, b, r=16, ranks={b: 8}, alpha_pattern={b: 8}), make(a, b, alpha_pattern={a: 16})):
        assert not [problem for problem in judge(settled, llama).problems if "would scale" in problem]


def test_vllm_refuses_what_no_module_is_called_and_is_silent_about_other_paths(llama):
    verdict = by_vllm(make("model.layers.0.self_attn.query"), llama)
    assert not verdict.loads
    assert "No module of LlamaForCausalLM is called as 'model.layers.0.self_attn.query' ends" in verdict.problems[0]
    verdict = by_vllm(make("layers.0.self_attn.q_proj"), llama)
    assert verdict.loads
    assert "leaves out all of its sites without an error (issue 34186); rename" in verdict.problems[0]
    assert "to 'model.layers.0.self_attn.q_proj'" in verdict.problems[0]


def test_sites_of_the_inner_model_are_found_by_pooling_alone(bases, llama):
    folder = str(bases / "LlamaForCausalLM")
    for task_type, clean in (("FEATURE_EXTRACTION", True), (None, False)):
        adapter = make("layers.0.self_attn.q_proj", task_type=task_type)
        base = Architecture.fitting(folder, adapter.sites, task_type)
        assert base.faults(adapter) == ()
        by_peft, vllms, _ = verdicts(adapter, base=base, loading=PeftLoading(), served=llama)
        assert by_peft.problems == ()
        assert (vllms.problems == ()) == clean
        assert any("--runner pooling" in note for note in vllms.notes) == clean


@pytest.mark.parametrize(
    ("model_class", "loads", "said"),
    [
        ("BertModel", False, "serves BertModel without adapters only; `loragen merge ADAPTER"),
        ("GPT2LMHeadModel", False, "serves GPT2LMHeadModel without adapters only"),
        ("T5ForConditionalGeneration", False, "no adapters for an encoder-decoder such as T5ForConditionalGeneration"),
        ("ModernBertModel", True, "takes adapters for ModernBertModel since pull request 57148"),
        ("MPNetModel", True, "does not say whether MPNetModel takes adapters"),
    ],
)
def test_vllm_takes_adapters_for_some_architectures_only(bases, model_class, loads, said):
    base = Architecture.of(str(bases / model_class))
    site, linear = next(iter(base.linear.items()))
    adapter = make(site, shapes={site: (linear.out_features, linear.in_features)})
    verdict = by_vllm(adapter, base)
    assert verdict.loads == loads
    (met,) = verdict.problems or verdict.notes
    assert said in met


# --- LoRAX ------------------------------------------------------------------------------------------------------------


def test_lorax_serves_whole_kinds_of_modules_it_knows(llama, gpt2):
    for adapter, base in (
        (make(*everywhere(QUERY, KEY, DOWN), "lm_head"), llama),
        (make(*(f"transformer.h.{layer}.attn.c_attn" for layer in (0, 1)), fan_in_fan_out=True), gpt2),
    ):
        verdict = judge_lorax(adapter, base)
        assert (verdict.loads, verdict.problems, verdict.notes) == (True, (), ())


def test_lorax_leaves_out_what_is_not_on_its_list(llama, gpt2):
    (problem,) = judge_lorax(make(*everywhere("layers.{}.self_attn.q_proj")), llama).problems
    assert "LoRAX leaves out all of its sites without an error; rename" in problem
    attention = [f"transformer.h.{layer}.attn.c_attn" for layer in (0, 1)]
    (problem,) = judge_lorax(make(*attention, "lm_head"), gpt2).problems
    assert "LoRAX leaves out 1 of its 3 sites (such as 'lm_head') without an error; `loragen merge" in problem


def test_lorax_drops_a_kind_that_a_layer_lacks(llama):
    (problem,) = judge_lorax(make(*everywhere(QUERY), KEY.format(1)), llama).problems
    assert "drops model.layers.*.self_attn.k_proj from all layers, since 1 of 2 have it" in problem


def test_lorax_wants_one_padded_rank_a_kind(llama):
    a, b = everywhere(QUERY)
    for low, high, loads in ((4, 8, True), (8, 16, False), (17, 32, True), (16, 17, False)):
        verdict = judge_lorax(make(a, b, r=high, ranks={a: low}, alpha_pattern={a: low}), llama)
        assert verdict.loads == loads
        assert loads or "stacks model.layers.*.self_attn.q_proj over the layers, but their ranks differ" in str(verdict)


@pytest.mark.parametrize(("rank", "padded"), [(4, True), (8, False), (12, True), (16, False), (48, False)])
def test_lorax_may_scale_padded_ranks_otherwise(llama, rank, padded):
    assert bool(judge_lorax(make(*everywhere(QUERY, KEY), r=rank), llama).notes) == padded
    assert not judge_lorax(make(*everywhere(QUERY), r=rank), llama).notes, "the first kind is scaled by r"


def test_lorax_takes_no_adapters_for_other_architectures(bases):
    base = Architecture.of(str(bases / "BertModel"))
    verdict = judge_lorax(make("encoder.layer.0.attention.self.query"), base)
    assert not verdict.loads
    assert "not for bert; `loragen merge ADAPTER --out MODEL`" in verdict.problems[0]
    assert "bert" not in LORAX_MODULES


# --- all --------------------------------------------------------------------------------------------------------------


def test_no_server_takes_other_shapes(llama):
    site = QUERY.format(0)
    loading = PeftLoading(error="size mismatch.")
    found = verdicts(make(site, shapes={site: (8, 16)}), base=llama, loading=loading)
    assert [verdict.server for verdict in found] == ["PEFT", "vLLM", "LoRAX"]
    assert found[0].problems == ("PEFT ends with: size mismatch; serve it on the base it was made for.",)
    for verdict in found:
        assert not verdict.loads
    for verdict in found[1:]:
        assert any("has another shape in LlamaForCausalLM" in problem for problem in verdict.problems)


def test_without_a_base_the_rules_on_the_adapter_itself_still_hold():
    found = verdicts(make(*everywhere(QUERY), r=600, alpha_pattern={QUERY.format(0): 1}))
    assert [verdict.loads for verdict in found] == [True, False, True]
    assert ["would scale" in str(verdict.problems) for verdict in found] == [False, True, True]
    assert all("config is not at hand" in str(verdict.notes) for verdict in found)
