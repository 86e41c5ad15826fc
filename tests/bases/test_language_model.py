import json
import math

import pytest
import torch
from families import write_base

from loragen.adapters.adapter import Lora
from loragen.bases.causal_lm import CausalLM
from loragen.bases.open import open_base
from loragen.bases.scores import LanguageScores
from loragen.bases.seq2seq import Seq2SeqLM
from loragen.bases.tokenised import TaskData
from loragen.errors import ConfigError, TaskError
from loragen.recipes.expert import Start
from loragen.recipes.few_shot import FewShotRecipe, fit_examples, prepare_examples
from loragen.tasks.examples import Examples
from loragen.tasks.task_set import Task, TaskSource

TEXTS = ("a soup b", "bread and a rather long tea", "cold")
LABELLED = Examples(TEXTS, labels=(0, 1, 0), label_names=("soup", "tea"))
OPEN = Examples(TEXTS, completions=("tea", "soup bread", "a b"))


@pytest.fixture(scope="module")
def llama(tmp_path_factory) -> CausalLM:
    base = open_base(str(write_base(tmp_path_factory.mktemp("llama"), "llama", seed=1)), objective="causal_lm")
    assert isinstance(base, CausalLM)
    return base


@pytest.fixture(scope="module")
def t5(tmp_path_factory) -> Seq2SeqLM:
    base = open_base(str(write_base(tmp_path_factory.mktemp("t5"), "t5", seed=1)), objective="seq2seq")
    assert isinstance(base, Seq2SeqLM)
    return base


def task_of(folder, rows, **changes) -> Task:
    (folder / "rows.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    changes = {"source": TaskSource(train=str(folder / "rows.jsonl"), test=str(folder / "rows.jsonl"))} | changes
    return Task(id="told", description="Say what follows.", **changes)


def one_at_a_time(base: CausalLM, prompt, completion) -> tuple[float, int]:
    """Surprise of a completion by transformers' own loss, which skips what is labelled -100."""
    if isinstance(base, Seq2SeqLM):
        loss = base.model(input_ids=torch.tensor([list(prompt)]), labels=torch.tensor([list(completion)])).loss
        return float(loss) * len(completion), len(completion)
    row = [*prompt, *completion]
    labels = [-100] * max(len(prompt), 1) + row[max(len(prompt), 1) :]
    count = sum(label != -100 for label in labels)
    loss = base.model(input_ids=torch.tensor([row]), labels=torch.tensor([labels])).loss
    return float(loss) * count, count


@pytest.mark.parametrize("kind", ["llama", "t5"])
def test_surprise_is_transformers_own_loss_over_the_completion_alone(kind, request) -> None:
    base = request.getfixturevalue(kind)
    prompts, completions = base.open_ended(OPEN, max_length=40)
    losses, counts, _ = base.surprises(prompts, completions, batch_size=2)
    wanted = [one_at_a_time(base, p, c) for p, c in zip(prompts, completions, strict=True)]
    torch.testing.assert_close(losses, torch.tensor([loss for loss, _ in wanted]), rtol=1e-4, atol=1e-4)
    assert counts.tolist() == [count for _, count in wanted] == [len(row) for row in completions]


def test_a_text_without_a_prompt_is_predicted_from_its_beginning_to_its_end(llama) -> None:
    plain = Examples(TEXTS)
    prompts, completions = llama.open_ended(plain, max_length=40)
    assert [list(row) for row in prompts] == [[1]] * 3
    assert all(row[-1] == 2 for row in completions)
    assert llama.texts_of(completions) == list(TEXTS)
    (short,) = llama.open_ended(Examples(TEXTS[1:2]), max_length=5)[1]
    assert list(short) == list(completions[1])[:5], "a text that is cut has no end"


def test_without_a_prompt_the_first_token_is_not_predicted(llama) -> None:
    losses, counts, _ = llama.surprises([[]], [[5, 6, 7]])
    wanted, _ = one_at_a_time(llama, [5], [6, 7])
    assert counts.tolist() == [2]
    assert float(losses) == pytest.approx(wanted, rel=1e-4)


def test_labelled_texts_stand_in_the_template_and_labels_follow_after_a_space(llama) -> None:
    pairs = Examples(("one",), ("two",))
    (row,) = llama.inputs(pairs, max_length=64)
    assert llama.tokenizer.decode(row) == "<s>one\ntwo\nLabel:"
    assert llama.tokenizer.batch_decode([list(label) for label in llama.outputs(["tea", " soup "], max_length=64)]) == [
        " tea</s>",
        " soup</s>",
    ]


@pytest.mark.parametrize("room", [14, 20])
def test_what_is_too_long_loses_its_end_and_a_prompt_its_beginning(llama, room) -> None:
    long = "abcdefghij" * 20
    (labelled,) = llama.inputs(Examples((long,)), max_length=room)
    assert len(labelled) == room
    assert llama.tokenizer.decode(labelled).startswith("<s>abc")
    assert llama.tokenizer.decode(labelled).endswith("\nLabel:")
    (prompt,), (completion,) = llama.open_ended(Examples((long + "xyz",), completions=("tea",)), max_length=room)
    assert len(prompt) + len(completion) == room
    assert llama.tokenizer.decode(prompt).endswith("xyz")


@pytest.mark.parametrize("kind", ["llama", "t5"])
def test_the_readout_is_the_log_likelihood_of_each_label(kind, request, tmp_path) -> None:
    base = request.getfixturevalue(kind)
    rows = [{"text": text, "label": ("soup", "tea")[label]} for text, label in zip(TEXTS, LABELLED.labels, strict=True)]
    task = task_of(tmp_path, rows, labels=("soup", "tea"))
    data = base.prepare(task.load_test(), max_length=40)
    readout = base.read(data)
    for prompt, logits in zip(data.ids, readout.logits, strict=True):
        for label, logit in zip(data.label_ids, logits, strict=True):
            assert float(-logit) == pytest.approx(one_at_a_time(base, prompt, label)[0], rel=1e-3)
    assert isinstance(base.score(data).accuracy, float)


def test_the_loss_is_the_mean_over_tokens_and_contrast_wants_classes(llama) -> None:
    data = TaskData.open(*llama.open_ended(OPEN, max_length=40))
    losses, counts, _ = llama.surprises(data.ids, data.label_ids)
    wanted = pytest.approx(float(losses.sum() / counts.sum()), rel=1e-4)
    assert float(llama.losses(data, contrast_weight=0)["loss"]) == wanted
    assert llama.held_out_loss(data, contrast_weight=0) == wanted
    for lossy in (llama.losses, llama.held_out_loss):
        with pytest.raises(TaskError, match="Contrast wants classes"):
            lossy(data, contrast_weight=1.0)


def test_perplexity_and_bits_per_byte_are_those_of_the_tokens_and_bytes(llama, tmp_path) -> None:
    task = task_of(tmp_path, [{"text": text} for text in ("soup é", "a tea")])
    data = llama.prepare(task.load_test(), max_length=40)
    assert data.is_open
    scores = llama.score(data)
    assert isinstance(scores, LanguageScores)
    nats = sum(one_at_a_time(llama, [1], row)[0] for row in data.label_ids)
    tokens = sum(len(row) for row in data.label_ids)
    assert scores.perplexity == pytest.approx(math.exp(nats / tokens), rel=1e-3)
    assert scores.bits_per_byte == pytest.approx(nats / math.log(2) / (7 + 5), rel=1e-3)
    assert scores.exact_match is None


@pytest.mark.parametrize("kind", ["llama", "t5"])
def test_exact_match_counts_completions_that_are_the_most_likely_ones(kind, request) -> None:
    base = request.getfixturevalue(kind)
    prompts = base.prompts(["a soup", "tea"])
    ((likely, unlikely), length) = base.continued(prompts, max_new_tokens=3), 3
    assert likely
    examples = Examples(("a soup", "tea"), completions=(likely, f"{unlikely}zzz"))
    data = base.prepare(examples, max_length=40)
    found = [base.continued([row], max_new_tokens=length)[0] for row in data.ids]
    assert found == [likely, unlikely], "one at a time as in a batch of unlike lengths"
    wanted = [text.strip() for text in base.texts_of(data.label_ids)]
    made = base.continued(data.ids, max_new_tokens=max(len(row) for row in data.label_ids))
    share = sum(one == other for one, other in zip(made, wanted, strict=True)) / 2
    assert base.score(data).exact_match == share < 1


def test_a_template_without_a_place_for_the_text_is_refused(llama, tmp_path) -> None:
    with pytest.raises(ConfigError, match=r"has no \{text\} in it"):
        open_base(llama.name, objective="causal_lm", prompt="Label:")
    told = open_base(llama.name, objective="causal_lm", prompt="Q: {text} A:")
    assert told.tokenizer.decode(told.inputs(LABELLED, max_length=40)[2]) == "<s>Q: cold A:"


def test_an_encoder_decoder_wants_completions(t5) -> None:
    with pytest.raises(TaskError, match="neither labels nor completions"):
        t5.open_ended(Examples(TEXTS), max_length=40)


def test_a_text_encoder_wants_labels(tmp_path) -> None:
    bert = open_base(str(write_base(tmp_path / "bert", "bert")))
    task = task_of(tmp_path, [{"text": "soup"}])
    with pytest.raises(TaskError, match="The task has no labels"):
        bert.prepare(task.load_test(), max_length=16)


def test_a_language_model_is_fitted_to_labelled_examples(llama) -> None:
    few = Examples(("a soup b", "tea c", "d soup", "e tea"), labels=(0, 1, 0, 1), label_names=("soup", "tea"))
    data = prepare_examples(few, llama, max_length=32)
    sites = llama.sites(("q_proj", "v_proj"))
    start = Start.random(sites, 2, rng=torch.Generator().manual_seed(0))
    adapter = Lora.from_factors(start.lora_A, start.lora_B, base_model_name_or_path=llama.name, task_type="CAUSAL_LM")
    fitted = fit_examples(adapter, data, llama, FewShotRecipe(steps=12, learning_rate=3e-2))
    before = llama.held_out_loss(data, contrast_weight=0)
    with llama.adapted(fitted):
        assert llama.held_out_loss(data, contrast_weight=0) < before
    assert fitted.settings.task_type == "CAUSAL_LM"
