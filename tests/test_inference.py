"""The library's adapters in use: loaded, tried on texts, saved, merged, combined, checked."""

import warnings
from dataclasses import replace

import pytest
import torch
from command_line import write_adapter
from families import write_base
from models import write_tiny_encoder

import loragen
from loragen.adapters.adapter import Lora
from loragen.bases.text_encoder import LabelTextEncoder
from loragen.errors import AdapterError, ConfigError, TaskError
from loragen.zoo.zoo import Zoo

TEXTS = ["warm soup", "a cold cup of tea, please.", "bread"]
SITES = [f"encoder.layer.{layer}.attention.self.{name}" for layer in (0, 1) for name in ("query", "value")]


@pytest.fixture(autouse=True)
def silence(capfd):
    """The library prints nothing, on neither stream."""
    yield
    assert capfd.readouterr() == ("", "")


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    return write_tiny_encoder(tmp_path_factory.mktemp("inference") / "encoder", seed=1)


@pytest.fixture(scope="module")
def language_model(tmp_path_factory):
    return write_base(tmp_path_factory.mktemp("inference") / "llama", "llama")


def make(base, *, seed=0, r=3, sites=SITES, task_type="FEATURE_EXTRACTION"):
    rng = torch.Generator().manual_seed(seed)
    return Lora.from_factors(
        {site: torch.randn(r, 16, generator=rng) for site in sites},
        {site: 0.3 * torch.randn(16, r, generator=rng) for site in sites},
        base_model_name_or_path=base and str(base),
        task_type=task_type,
    )


@pytest.fixture
def folder(encoder, tmp_path):
    make(encoder).save(tmp_path / "adapter")
    return tmp_path / "adapter"


# --- load ---


def test_an_adapter_knows_its_base_and_what_its_card_says(toys):
    zoo = Zoo.open(toys / "zoo")
    adapter = loragen.Adapter.load(zoo.folder("words"))
    card = zoo.card("words")
    assert (adapter.base, adapter.description, adapter.labels) == (str(toys / "base"), card.description, card.labels)
    assert adapter.card is None, "an expert was trained, not generated"


def test_a_generated_adapter_comes_back_with_its_card(toys, tmp_path):
    made = loragen.generate(
        "Is it cold?", labels=["yes", "no"], generator="mean", zoo=toys / "zoo", encoder=str(toys / "base")
    )
    written = made.save(tmp_path / "made")
    assert written.norm == pytest.approx(made.lora.norm(), rel=1e-4)
    read = loragen.Adapter.load(str(tmp_path / "made"))
    assert (read.card, read.description, read.labels) == (made.card, "Is it cold?", ("yes", "no"))
    assert made.classify(TEXTS) == read.classify(TEXTS)


@pytest.mark.parametrize(
    ("card", "description", "labels"),
    [
        (None, None, ()),
        ("description: Tea?\nlabels: ['a', 'b']\n", "Tea?", ("a", "b")),
        ("generator: of a later version\nlabels: ['a', 'b']\n", None, ("a", "b")),
        ("description: ' '\nlabels: 7\n", None, ()),
        ("{", None, ()),
    ],
)
def test_any_card_or_none_will_do(folder, card, description, labels):
    if card is not None:
        (folder / "card.yaml").write_text(card)
    adapter = loragen.Adapter.load(folder)
    assert (adapter.card, adapter.description, adapter.labels) == (None, description, labels)


def test_a_base_that_is_given_stands_in_for_the_one_that_is_named(encoder, tmp_path):
    make(None).save(tmp_path / "nameless")
    with pytest.raises(ConfigError, match="does not name its base model; give it with --base"):
        loragen.Adapter.load(tmp_path / "nameless")
    adapter = loragen.Adapter.load(tmp_path / "nameless", base=str(encoder))
    adapter.save(tmp_path / "named")
    assert loragen.Adapter.load(tmp_path / "named").base == str(encoder)
    with pytest.raises(AdapterError, match="nowhere cannot be used"):
        loragen.Adapter.load("nowhere")


# --- classify and complete ---


def test_texts_get_the_label_whose_text_lies_nearest_under_the_adapter(folder, encoder):
    adapter, base = loragen.Adapter.load(folder), LabelTextEncoder.load(str(encoder))
    labels = ["cold soup", "warm bread"]
    for adapted in (True, False):
        with base.adapted(adapter.lora if adapted else None):
            texts, names = (base.encode(base.tokenize(each, max_length=64)) for each in (TEXTS, labels))
        wanted = torch.softmax(20 * texts @ names.T, dim=1)
        found = adapter.classify(TEXTS, labels, adapted=adapted)
        assert [each.label for each in found] == [labels[int(row.argmax())] for row in wanted]
        for each, row in zip(found, wanted, strict=True):
            assert each.probability == pytest.approx(float(row.max()), abs=1e-4)
            assert list(each.by_label) == labels
    assert loragen.classify(folder, TEXTS, labels) == loragen.classify(adapter, TEXTS, labels)


def test_the_base_is_loaded_when_it_is_first_needed_and_kept(folder, encoder):
    gone = loragen.Adapter.load(folder, base="/no/such/base")
    with pytest.raises(ConfigError, match="/no/such/base"):
        gone.classify(TEXTS, ["a", "b"])
    adapter = loragen.Adapter.load(folder)
    assert adapter.opened_base is adapter.opened_base
    base = LabelTextEncoder.load(str(encoder))
    over = gone.with_base(base)
    assert over.opened_base is base
    assert over.base == str(encoder)
    assert over.classify(TEXTS, ["a", "b"]) == adapter.classify(TEXTS, ["a", "b"])


@pytest.mark.parametrize(
    ("texts", "labels", "error", "said"),
    [
        (TEXTS, None, ConfigError, "card names no labels; give them with --labels first,second"),
        (TEXTS, ["one"], TaskError, "at least two different ones are wanted"),
        (TEXTS, ["one", "one"], TaskError, "the label name 'one' occurs twice; give each label one name of its own"),
        (TEXTS, ["one", "\udce9"], TaskError, r"a label name holds the character U\+DCE9"),
        (["soup", "\udce9"], ["a", "b"], TaskError, r"One of the texts holds the character U\+DCE9"),
        (["soup", "\u200b"], ["a", "b"], TaskError, "One of the texts is empty"),
        (TEXTS, "one,two", TaskError, "The labels are one text, 'one,two'; give a list of them"),
        ("a text", ["a", "b"], TaskError, "The texts are one text, 'a text'; give a list of them"),
        ([], ["a", "b"], TaskError, "There are no texts"),
        (["soup", " "], ["a", "b"], TaskError, "One of the texts is empty"),
    ],
)
def test_what_cannot_be_classified_is_refused(folder, texts, labels, error, said):
    with pytest.raises(error, match=said):
        loragen.classify(folder, texts, labels)


def test_a_language_model_writes_on_with_the_adapter_and_without(language_model, tmp_path):
    sites = ["model.layers.0.self_attn.q_proj", "model.layers.1.self_attn.o_proj"]
    make(language_model, sites=sites, task_type="CAUSAL_LM").save(tmp_path / "adapter")
    adapter = loragen.Adapter.load(tmp_path / "adapter")
    adapted, bare = (adapter.complete(["a soup", "b tea"], max_tokens=6, adapted=on) for on in (True, False))
    assert loragen.complete(tmp_path / "adapter", ["a soup", "b tea"], max_tokens=6) == adapted
    assert len(adapted) == len(bare) == 2
    assert adapted != bare
    assert adapter.complete(["a soup", "b tea"], max_tokens=6, adapted=False) == bare, "the base is left as it was"
    for prompts, said in (([], "no prompts"), ([""], "prompts is empty"), ("a", "The prompts are one text")):
        with pytest.raises(TaskError, match=said):
            adapter.complete(prompts)
    with pytest.raises(AdapterError, match="task type CAUSAL_LM; a sentence transformer wants one of a text encoder"):
        adapter.sentence_transformer()


def test_an_encoder_writes_no_text(folder):
    with pytest.raises(AdapterError, match="FEATURE_EXTRACTION, whose base writes no text; try it with `loragen class"):
        loragen.complete(folder, ["a"])


# --- save and merge ---


def test_an_adapter_is_saved_with_what_is_known_of_its_task(folder, tmp_path):
    adapter = replace(loragen.Adapter.load(folder), description="Tea?", labels=("a", "b"))
    adapter.save(tmp_path / "copy")
    read = loragen.Adapter.load(tmp_path / "copy")
    assert (read.description, read.labels, read.card) == ("Tea?", ("a", "b"), None)
    assert read.lora.spec == adapter.lora.spec
    with pytest.raises(ConfigError, match="copy exists already; give another --out, or --force"):
        adapter.save(tmp_path / "copy")
    adapter.save(tmp_path / "copy", force=True)
    loragen.Adapter.load(folder).save(tmp_path / "plain")
    assert not (tmp_path / "plain" / "card.yaml").exists()


def test_an_adapter_that_does_nothing_is_not_saved(folder, tmp_path):
    adapter = loragen.Adapter.load(folder)
    zero = Lora(adapter.lora.settings, adapter.lora.lora_A, {s: 0 * b for s, b in adapter.lora.lora_B.items()})
    with pytest.raises(AdapterError, match="leaves the base unchanged"):
        replace(adapter, lora=zero).save(tmp_path / "zero")
    assert not (tmp_path / "zero").exists()


def test_a_merged_model_says_what_it_is_made_of(folder, encoder, tmp_path):
    adapter = loragen.Adapter.load(folder)
    assert adapter.merge(str(tmp_path / "merged")) == tmp_path / "merged"
    readme = (tmp_path / "merged" / "README.md").read_text()
    assert f"base_model: {encoder}" in readme
    assert "with an adapter merged into its weights by loragen" in readme
    with pytest.raises(ConfigError, match="merged exists already"):
        adapter.merge(tmp_path / "merged")
    adapter.merge(tmp_path / "merged", force=True)


def by_plain_peft(base, folder):
    """Mean-pooled unit embeddings by transformers and PEFT alone."""
    from peft import PeftModel
    from transformers import AutoModel, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(base)
    batch = tokenizer(TEXTS, padding=True, truncation=True, max_length=64, return_tensors="pt")
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        model = AutoModel.from_pretrained(base)
        adapted = model if folder is None else PeftModel.from_pretrained(model, folder)
        hidden = adapted.eval()(**batch).last_hidden_state
    mask = batch["attention_mask"].unsqueeze(-1)
    return torch.nn.functional.normalize((hidden * mask).sum(1) / mask.sum(1), dim=-1)


def test_a_sentence_transformer_embeds_as_plain_peft_does(folder, encoder, capfd):
    model = loragen.Adapter.load(folder).sentence_transformer()
    assert capfd.readouterr() == ("", "")
    met = model.encode(TEXTS, convert_to_tensor=True, show_progress_bar=False)
    wanted, bare = by_plain_peft(encoder, folder), by_plain_peft(encoder, None)
    capfd.readouterr()  # transformers' own bars
    torch.testing.assert_close(met, wanted, atol=1e-5, rtol=0)
    assert (met - bare).abs().max() > 1e-2


def test_a_base_that_is_no_sentence_transformer_is_pooled_by_the_mean_without_a_word(tmp_path, capfd):
    plain = write_base(tmp_path / "plain", "bert")
    capfd.readouterr()  # transformers' own bars
    make(plain).save(tmp_path / "adapter")
    model = loragen.Adapter.load(tmp_path / "adapter").sentence_transformer()
    assert model.encode(TEXTS, show_progress_bar=False).shape == (3, 16)


# --- combine and check ---


def test_adapters_combine_into_their_weighted_sum(folder, encoder, tmp_path):
    one, two = loragen.Adapter.load(folder), make(encoder, seed=1, r=2, sites=SITES[:2])
    two.save(tmp_path / "two")
    for weights, (first, second) in ((None, (0.5, 0.5)), ([2, -1], (2, -1))):
        made = loragen.combine([one, tmp_path / "two"], weights)
        assert made.energy_kept == 1
        for site in SITES:
            wanted = first * one.lora.delta_weight(site)
            if site in two.sites:
                wanted = wanted + second * two.delta_weight(site)
            torch.testing.assert_close(made.adapter.lora.delta_weight(site), wanted, atol=1e-5, rtol=1e-4)
    assert made.adapter.base == str(encoder)
    low = loragen.combine([one, str(tmp_path / "two")], rank=1)
    assert 0 < low.energy_kept < 1
    assert {site.r for site in low.adapter.lora.spec.sites} == {1}


def test_a_base_that_is_given_makes_adapters_of_one_base_go_together(encoder, tmp_path):
    for name in ("here", "there"):
        make(name).save(tmp_path / name)
    folders = [tmp_path / "here", tmp_path / "there"]
    with pytest.raises(AdapterError, match="must share their base model; met"):
        loragen.combine(folders)
    made = loragen.combine(folders, base=str(encoder))
    assert made.adapter.base == made.adapter.lora.settings.base_model_name_or_path == str(encoder)
    opened = loragen.combine([loragen.Adapter.load(each) for each in folders], base=str(encoder))
    assert opened.adapter.base == str(encoder)


def test_the_same_seed_drops_the_same_entries(folder, tmp_path, encoder):
    make(encoder, seed=1).save(tmp_path / "two")

    def dropped(**options):
        return loragen.combine([folder, tmp_path / "two"], method="dare", **options).adapter.lora.delta_weight(SITES[0])

    assert torch.equal(dropped(seed=1), dropped(seed=1))
    assert not torch.equal(dropped(seed=1), dropped(seed=2))
    assert torch.equal(dropped(), dropped(density=0.2))
    assert not torch.equal(dropped(), dropped(density=0.5))


@pytest.mark.parametrize(
    ("options", "error", "said"),
    [
        ({"density": 0.2}, ConfigError, "--density does not apply to --method sum"),
        ({"method": "slerp"}, AdapterError, "no merge 'slerp'"),
        ({"weights": [1, 2]}, AdapterError, "one weight an adapter"),
        ({"scale": float("nan")}, AdapterError, "scale of the merge is nan"),
    ],
)
def test_what_cannot_be_combined_is_refused(folder, options, error, said):
    with pytest.raises(error, match=said):
        loragen.combine([folder], **options)
    with pytest.raises(AdapterError, match="at least one; met 0 and 0"):
        loragen.combine([])


def test_an_adapter_that_fits_its_base_has_no_faults(folder, encoder):
    result = loragen.check(str(folder))
    assert (result.base, result.faults, result.remark) == (str(encoder), (), None)
    assert result.architecture.model_class == "BertModel"
    assert next((v.server, v.loads, v.problems) for v in result.verdicts) == ("PEFT", True, ())


def test_an_adapter_that_does_nothing_is_a_fault(folder, encoder):
    lora = make(encoder)
    Lora(lora.settings, lora.lora_A, {site: 0 * b for site, b in lora.lora_B.items()}).save(folder)
    result = loragen.check(folder)
    assert result.faults == (
        "All delta weights of the adapter are zero, so that it leaves its base unchanged; train it, or export it again "
        "after training.",
    )
    make(None).save(folder)
    assert loragen.check(folder).faults == ()


def test_a_base_that_cannot_be_laid_out_is_not_compared(folder, tmp_path):
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "config.json").write_text('{"model_type": "own"}')
    make(tmp_path / "own").save(folder)
    result = loragen.check(folder)
    assert result.architecture is None
    assert "cannot be laid out as AutoModel" in result.remark
    assert all("not compared with the base" in verdict.notes[-1] for verdict in result.verdicts)


def test_the_revision_that_an_adapter_names_is_the_one_that_is_used(tmp_path):
    import json

    write_adapter(tmp_path / "adapter", "org/model")
    path = tmp_path / "adapter" / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"revision": "v2"}))
    adapter = loragen.Adapter.load(tmp_path / "adapter")
    assert adapter.base == "org/model@v2"
    with pytest.raises(ConfigError, match="of the revision v2"):
        adapter.merge(tmp_path / "merged")
    adapter.save(tmp_path / "again")
    assert json.loads((tmp_path / "again" / "adapter_config.json").read_text())["revision"] == "v2"
