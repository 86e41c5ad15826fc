import dataclasses
import shutil
from collections import Counter
from pathlib import Path
from typing import ClassVar, NamedTuple

import pytest
import torch
from models import word_task, write_tiny_encoder
from sklearn.metrics import v_measure_score
from test_foundry import in_this_process

from loragen.adapters.adapter import Lora
from loragen.bases.scores import read_task, score_task, scores_of, v_measure
from loragen.bases.tokenised import Readout, TaskData
from loragen.conditions.text_encoder import TextEncoder
from loragen.config import dump_yaml
from loragen.errors import ConfigError, TaskError, ZooError
from loragen.evaluation import evaluate as module
from loragen.evaluation.cells import ALL, Cell, CellFile
from loragen.evaluation.controls import NONSENSE, OTHER, PARAPHRASE, RIGHT, SHUFFLED
from loragen.evaluation.evaluate import (
    BASE,
    CELLS,
    INSTRUCTED,
    MULTITASK,
    ORACLE,
    RUN,
    Bench,
    EvaluateConfig,
    evaluate,
    refuse_leaks,
    shuffled,
)
from loragen.evaluation.statistics import Interval
from loragen.evaluation.summary import summarise
from loragen.files import atomic_write
from loragen.generators.base import Generation, Generator
from loragen.generators.registry import open_generator
from loragen.generators.sg.fit import SGTrainConfig, fit_sg
from loragen.generators.sg.model import SGConfig
from loragen.recipes.expert import ExpertRecipe
from loragen.recipes.few_shot import fit_examples
from loragen.recipes.multitask import MultitaskRecipe
from loragen.zoo.build import ZooConfig, build
from loragen.zoo.zoo import Zoo

EXPERTS = {"drinks": ("soup", "tea"), "meals": ("bread", "soup"), "weather": ("cold", "warm")}
NEAR = {"cups": ("tea", "warm")}
FAR = {"menus": ("cold", "soup"), "ovens": ("bread", "warm"), "plates": ("bread", "cold")}
FAMILY = {"drinks": "drink", "meals": "meal", "cups": "drink", "menus": "menu", "plates": "menu"}
"""Weather and ovens have none: each is its own."""
STRANGERS = {
    "cups": {"menus", "ovens", "plates"},
    "menus": {"cups", "ovens"},
    "ovens": {"cups", "menus", "plates"},
    "plates": {"cups", "ovens"},
}
RECIPE = ExpertRecipe(r=2, steps=12, batch_size=16, learning_rate=3e-2, window=4, snapshots=2)
SHORT = 20
"""Of the 40 texts of a test file."""


class Asked(NamedTuple):
    description: str
    seed: int
    adapter: Lora


class Overheard(Generator):
    """Passes on what another generator makes, and keeps what it was asked."""

    name: ClassVar[str] = "overheard"

    def __init__(self, generator: Generator) -> None:
        self.generator = generator
        self.is_stochastic = generator.is_stochastic
        self.asked: list[Asked] = []

    def generate(self, condition, *, rng, num_samples=1):
        seed = rng.initial_seed()
        made = self.generator.generate(condition, rng=rng, num_samples=num_samples)
        self.asked.append(Asked(condition.description, seed, made[0].adapter))
        return made


class Told(Generator):
    """Gives the adapter that a function of the description says."""

    name: ClassVar[str] = "told"
    is_stochastic: ClassVar[bool] = False

    def __init__(self, adapter_for) -> None:
        self.adapter_for = adapter_for

    def generate(self, condition, *, rng, num_samples=1):
        return [Generation(self.adapter_for(condition.description), ())] * num_samples


# --- what is evaluated, built once ---


@pytest.fixture(scope="module")
def float32():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "choose_dtype", lambda _name: torch.float32)  # which is faster is up to the machine
        yield


@pytest.fixture(scope="module")
def workshop(tmp_path_factory, float32) -> Path:
    """A base, a task file, a zoo with a tiny SG-LoRA, and oracles."""
    root = tmp_path_factory.mktemp("evaluation")
    base = write_tiny_encoder(root / "base", seed=1)
    splits = {"experts": EXPERTS, "near": NEAR, "far": FAR}
    tasks = [
        word_task(root / "data", name, words=words).model_copy(
            update={"family": FAMILY.get(name, ""), "paraphrases": (f"{words[1]}, or {words[0]}?", f"Find {words[0]}.")}
        )
        for split in splits.values()
        for name, words in split.items()
    ]
    listed = {"tasks": [task.model_dump(mode="json") for task in tasks], "splits": {s: [*t] for s, t in splits.items()}}
    (root / "tasks.yaml").write_text(dump_yaml(listed))
    zoo = ZooConfig(
        name="tiny",
        out=root / "zoo",
        base=str(base),
        tasks=root / "tasks.yaml",
        splits=("experts",),
        frame="multitask",
        start="zero",
        recipe=RECIPE,
        multitask=MultitaskRecipe(steps=12, steps_per_checkpoint=12, learning_rate=3e-2),
        score=False,
        dtype="float32",
        workers=2,  # a thread each
    )
    longer = RECIPE.model_copy(update={"steps": 40, "learning_rate": 5e-2})  # so that there is something to recover
    places = {"out": root / "oracles", "splits": ("near", "far"), "start_of": root / "zoo"}
    oracles = zoo.model_copy(update=places | {"recipe": longer})
    with pytest.MonkeyPatch.context() as own:
        for settings in (zoo, oracles):
            for ready in in_this_process(settings, own):
                build(ready)
    settings = SGTrainConfig(
        generator="sg",
        zoo=root / "zoo",
        encoder=str(base),
        out=root / "sg",
        sg=SGConfig(top_k=2, components=4, latent_size=4, hidden_size=16),
        epochs=1,
        steps_per_epoch=5,
    )
    generator, _ = fit_sg(settings, Zoo.open(root / "zoo"), TextEncoder.load(str(base)))
    for name, content in generator.files().items():
        atomic_write(root / "zoo" / "generators" / "sg" / name, content)
    # One adapter under both names, so that it is the texts that make the difference.
    shutil.copytree(root / "zoo" / "multitask", root / "instructed")
    return root


@pytest.fixture(scope="module")
def config(workshop) -> EvaluateConfig:
    return EvaluateConfig(
        zoo=workshop / "zoo",
        tasks=workshop / "tasks.yaml",
        splits=("near", "far"),
        unseen_families=("far",),
        generators=("mean", "nearest", "topk", "sg"),
        instructed=workshop / "instructed",
        oracles=workshop / "oracles",
        encoder=str(workshop / "base"),
        out=workshop / "whole",
        seeds=(3, 5),
        short=SHORT,
        unrelated_texts=SHORT + 4,
    )


def changed(config: EvaluateConfig, **values) -> EvaluateConfig:
    return EvaluateConfig.model_validate(config.model_dump() | values)


class Evaluation(NamedTuple):
    bench: Bench
    cells: list[Cell]
    asked: dict[str, list[Asked]]
    """By generator, in the order of its cells."""
    reports: list[tuple[str, int, int]]

    def cell(self, task, method, control=RIGHT, seed=3):
        (found,) = (cell for cell in self.cells if cell.key == (task, method, control, seed))
        return found


@pytest.fixture(scope="module")
def whole(config) -> Evaluation:
    """An evaluation that nothing interrupted."""
    reports = []
    with pytest.MonkeyPatch.context() as own:
        own.setattr(module, "open_generator", lambda *arguments: Overheard(open_generator(*arguments)))
        bench, cells = evaluate(config, lambda *step: reports.append(step))
    asked = {name: list(generator.asked) for name, generator in bench.generators.items()}
    return Evaluation(bench, cells, asked, reports)


@pytest.fixture
def here(whole, config, tmp_path, monkeypatch) -> EvaluateConfig:
    """The same config with a folder of its own; base, zoo and generators are opened already."""
    monkeypatch.setattr(Bench, "open", lambda config: reopened(whole.bench, config))
    return changed(config, out=tmp_path / "here")


def reopened(bench: Bench, config: EvaluateConfig) -> Bench:
    generators = {name: bench.generators[name] for name in config.generators}
    return dataclasses.replace(bench, config=config, generators=generators, accuracies={})


def with_generators(monkeypatch, **generators):
    """Put generators in place of those of these names."""
    monkeypatch.setattr(module, "open_generator", lambda name, *_: generators[name])
    return {"generators": tuple(generators)}


def first_of(task, base, number=SHORT, **options) -> TaskData:
    """The first test texts, as they are in the file."""
    return TaskData.of(task, shuffled(task).subset(range(number)), base, max_length=128, **options)


def direct(bench, task, adapter, **options):
    """Scores on the whole test file and on the first texts, with nothing of the evaluation between."""
    data = TaskData.of(task, shuffled(task), bench.base, max_length=128, **options)
    readout = read_task(bench.base, adapter, data)
    first = Readout(readout.texts[:SHORT], readout.logits[:SHORT], readout.targets[:SHORT])
    return scores_of(readout, clustering=True), scores_of(first)


def of(evaluation, method):
    return [cell for cell in evaluation.cells if cell.method == method]


def scaled(adapter, factor):
    return Lora(adapter.settings, adapter.lora_A, {site: factor * b for site, b in adapter.lora_B.items()})


def interrupt(_what, done, _total):
    if done:
        raise KeyboardInterrupt


def double(folder):
    adapter = Lora.load(folder)
    kept = {path.name: path.read_bytes() for path in folder.iterdir() if not path.name.startswith("adapter_")}
    scaled(adapter, 2.0).save(folder, extra_files=kept)


def replace_in(file, old, new):
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new))


def evaluate_nothing(config):
    """Leave the settings beside no cell."""

    def stop(*_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        evaluate(config, stop)


def timeless(cells):
    return [cell.model_copy(update={"seconds": 0.0, "forgetting_seconds": 0.0}) for cell in cells]


def state(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


# --- the cells ---


def test_every_cell_is_there_once(whole, config):
    told = (NONSENSE, SHUFFLED, OTHER, f"{PARAPHRASE} 1", f"{PARAPHRASE} 2")
    wanted = []
    for task in (*NEAR, *FAR):
        wanted += [(task, method, RIGHT, 3) for method in (BASE, MULTITASK, INSTRUCTED, ORACLE, "mean", "nearest")]
        wanted += [(task, "topk", RIGHT, 3), (task, "sg", RIGHT, 3), (task, "sg", RIGHT, 5)]
        wanted += [(task, method, control, 3) for method in config.generators for control in told]
    assert Counter(cell.key for cell in whole.cells) == Counter(wanted)


def test_methods_come_with_the_base_first_and_the_oracle_last(whole, config):
    assert tuple(dict.fromkeys(cell.method for cell in whole.cells)) == whole.bench.methods
    assert whole.bench.methods == (BASE, MULTITASK, INSTRUCTED, *config.generators, ORACLE)
    assert list(dict.fromkeys(cell.task for cell in whole.cells)) == [*NEAR, *FAR]


def test_cells_are_on_disk_as_they_are_returned(whole, config):
    assert list(CellFile(config.out / CELLS).read()) == whole.cells
    assert {path.name for path in config.out.iterdir()} == {CELLS, RUN}


def test_progress_is_reported_cell_by_cell(whole):
    total = len(whole.cells)
    assert whole.reports == [("adapters", done, total) for done in range(total + 1)]


def test_what_is_not_generated_is_scored_on_the_whole_test_file(whole):
    bench = whole.bench
    for task in bench.tasks:
        for method, adapter in (
            (BASE, None),
            (MULTITASK, bench.zoo.multitask()),
            (ORACLE, bench.oracles.adapter(task.id)),
        ):
            cell = whole.cell(task.id, method)
            assert (cell.scores, cell.short) == direct(bench, task, adapter)
            assert cell.scores.v_measure is not None


@pytest.mark.parametrize("method", ["mean", "nearest", "topk", "sg"])
def test_a_generated_adapter_is_scored_as_it_was_generated(whole, method):
    tasks = {task.id: task for task in whole.bench.tasks}
    for cell, one in zip(of(whole, method), whole.asked[method], strict=True):
        task = tasks[cell.task]
        assert cell.seed == one.seed
        if cell.control == RIGHT:
            assert (cell.scores, cell.short) == direct(whole.bench, task, one.adapter)
        else:
            first = first_of(task, whole.bench.base)
            assert (cell.scores, cell.short) == (None, score_task(whole.bench.base, one.adapter, first))


@pytest.mark.parametrize("method", ["mean", "nearest", "topk", "sg"])
def test_a_generator_is_told_what_the_control_says(whole, method):
    tasks = {task.id: task for task in whole.bench.tasks}
    for cell, one in zip(of(whole, method), whole.asked[method], strict=True):
        task, told = tasks[cell.task], one.description
        match cell.control:
            case "right":
                assert told == task.description
            case "another task's":
                assert told in {tasks[other].description for other in STRANGERS[task.id]}
            case "shuffled words":
                assert sorted(told.split()) == sorted(task.description.split())
            case "nonsense":
                assert not set(told.lower().split()) & set(task.description.lower().split())
            case control:
                assert told == task.paraphrases[int(control.removeprefix(PARAPHRASE)) - 1]


def test_every_generator_is_told_the_same(whole):
    told = [
        [
            (cell.task, cell.control, one.description)
            for cell, one in zip(of(whole, method), asked, strict=True)
            if cell.seed == 3
        ]
        for method, asked in whole.asked.items()
    ]
    assert all(one == told[0] for one in told)


def test_chance_is_drawn_once_a_seed(whole):
    for task in whole.bench.tasks:
        one, two = (whole.cell(task.id, "sg", seed=seed) for seed in (3, 5))
        assert one.scores != two.scores
        assert one.novelty is not None
        assert (two.novelty, two.forgetting) == (None, None), "measured once"


def test_novelty_is_that_of_generated_adapters(whole):
    for cell in whole.cells:
        assert (cell.novelty is not None) == (
            cell.method in whole.bench.generators and cell.control == RIGHT and cell.seed == 3
        )
    for task in whole.bench.tasks:
        assert whole.cell(task.id, "mean").novelty.to_mean == pytest.approx(0, abs=1e-3)
        assert whole.cell(task.id, "nearest").novelty.is_replay
        assert not whole.cell(task.id, "topk").novelty.is_replay


def test_without_controls_there_are_none_and_the_rest_is_the_same(whole, here):
    _, cells = evaluate(changed(here, generators=("sg",), with_controls=False))
    wanted = [cell for cell in whole.cells if cell.control == RIGHT and cell.method not in ("mean", "nearest", "topk")]
    assert timeless(cells) == timeless(wanted)


# --- the yardstick ---


def test_the_oracles_own_adapter_recovers_all_and_the_base_nothing(config, tmp_path, monkeypatch):
    oracles = Zoo.open(config.oracles)
    own = {card.description: oracles.adapter(card.id) for card in oracles}
    zero = {text: scaled(adapter, 0.0) for text, adapter in own.items()}
    generators = with_generators(monkeypatch, perfect=Told(own.__getitem__), nothing=Told(zero.__getitem__))
    bench, cells = evaluate(changed(config, out=tmp_path / "out", with_controls=False, **generators))
    groups = {ALL: [task.id for task in bench.tasks], "plates": ["plates"]}
    summary = summarise(cells, groups, base=BASE, oracle=ORACLE, rivals=(ORACLE,))
    for group in groups:
        for score in ("accuracy", "knn_accuracy", "macro_f1"):
            rows = {method: summary.row(group, method, score) for method in bench.methods}
            assert rows[ORACLE].mean.mean > rows[BASE].mean.mean, "there is something to recover"
            assert rows["perfect"].gain == rows[ORACLE].gain == Interval(1, 1, 1)
            assert rows["nothing"].gain == rows[BASE].gain == Interval(0, 0, 0)
            assert (rows["perfect"].above[ORACLE], rows["perfect"].wins[ORACLE]) == (Interval(0, 0, 0), 0.5)


# --- what is computed ---


def factors_of(adapter) -> bytes:
    return b"".join(f.numpy().tobytes() for site in adapter.sites for f in adapter.scaled_factors(site))


def overheard_embedding(monkeypatch):
    """Keep which adapter, by the bytes of its factors, was put to which texts."""
    calls = []

    def embed(base, adapter, data):
        calls.append((None if adapter is None else factors_of(adapter), tuple(map(tuple, data.ids))))
        return read_task(base, adapter, data)

    monkeypatch.setattr(module, "read_task", embed)
    return calls


def test_one_adapter_is_scored_once_however_often_it_is_made(whole, here, monkeypatch):
    calls = overheard_embedding(monkeypatch)
    _, cells = evaluate(changed(here, unrelated=0))
    assert len(calls) == len(set(calls))
    for name in EXPERTS:  # which nearest gives back, for one wording or for several
        factors = factors_of(whole.bench.zoo.adapter(name))
        told = [
            cell
            for cell, one in zip(of(whole, "nearest"), whole.asked["nearest"], strict=True)
            if factors_of(one.adapter) == factors
        ]
        right = {cell.task for cell in told if cell.control == RIGHT}  # whose first texts are scored along
        sizes = Counter(len(ids) for met, ids in calls if met == factors)
        assert sizes == Counter({SHORT: len({cell.task for cell in told} - right), 40: len(right)}) - Counter()
    assert timeless(cells) == timeless(cell.model_copy(update={"forgetting": None}) for cell in whole.cells)


# --- forgetting ---


def test_an_adapter_that_does_nothing_forgets_nothing(config, tmp_path, monkeypatch):
    oracles = Zoo.open(config.oracles)
    own = {card.description: oracles.adapter(card.id) for card in oracles}
    generators = with_generators(monkeypatch, nothing=Told(lambda text: scaled(own[text], 0.0)))
    _, cells = evaluate(changed(config, out=tmp_path / "out", with_controls=False, **generators))
    met = {(cell.task, cell.method): cell.forgetting for cell in cells}
    assert {met[task, "nothing"] for task in STRANGERS} == {0}
    assert {met[task, BASE] for task in STRANGERS} == {None}, "the base has nothing to forget"
    assert any(met[task, ORACLE] for task in STRANGERS)


def test_forgetting_is_the_mean_change_on_tasks_of_other_families(whole):
    bench, tasks = whole.bench, {task.id: task for task in whole.bench.tasks}

    def right(task, adapter):
        first = first_of(tasks[task], bench.base, bench.config.unrelated_texts)
        return score_task(bench.base, adapter, first).accuracy

    for task, strangers in STRANGERS.items():
        for method, adapter in ((ORACLE, bench.oracles.adapter(task)), (MULTITASK, bench.zoo.multitask())):
            changes = [right(stranger, adapter) - right(stranger, None) for stranger in sorted(strangers)]
            assert whole.cell(task, method).forgetting == pytest.approx(sum(changes) / len(changes), abs=1e-5)


def test_forgetting_is_measured_on_so_many_tasks_of_other_families(here, monkeypatch):
    calls = overheard_embedding(monkeypatch)
    bench, cells = evaluate(changed(here, generators=("nearest",), unrelated=1, with_controls=False))
    texts = {tuple(map(tuple, bench.data(task).first(SHORT + 4).ids)): task.id for task in bench.tasks}
    for task in bench.tasks:
        oracle = factors_of(bench.oracles.adapter(task.id))
        (met,) = {texts[ids] for factors, ids in calls if factors == oracle and ids in texts}
        assert met in STRANGERS[task.id]
    assert {cell.method for cell in cells if cell.forgetting is None} == {BASE}


def test_forgetting_need_not_be_measured(whole, here):
    _, cells = evaluate(changed(here, generators=("nearest",), unrelated=0, with_controls=False))
    assert {cell.forgetting for cell in cells} == {None}


# --- the instructed LoRA ---


def test_the_instructed_lora_sees_the_description_before_every_text(whole):
    bench = whole.bench
    adapter = Lora.load(bench.config.instructed)
    for task in bench.tasks:
        cell = whole.cell(task.id, INSTRUCTED)
        assert (cell.scores, cell.short) == direct(bench, task, adapter, instruction=task.description)
        plain = whole.cell(task.id, MULTITASK)
        assert (plain.scores, plain.short) == direct(bench, task, adapter), "the same adapter without it"
        assert cell.scores.cross_entropy != plain.scores.cross_entropy


def test_the_instructed_lora_is_told_its_own_task_on_unrelated_ones(whole):
    bench, tasks = whole.bench, {task.id: task for task in whole.bench.tasks}
    adapter = Lora.load(bench.config.instructed)

    def right(stranger, adapter, **options):
        data = first_of(tasks[stranger], bench.base, bench.config.unrelated_texts, **options)
        return score_task(bench.base, adapter, data).accuracy

    for task, strangers in STRANGERS.items():
        told = tasks[task].description
        changes = [right(name, adapter, instruction=told) - right(name, None) for name in sorted(strangers)]
        assert whole.cell(task, INSTRUCTED).forgetting == pytest.approx(sum(changes) / len(changes), abs=1e-5)
    plain = [whole.cell(task, MULTITASK).forgetting for task in STRANGERS]
    assert plain != [whole.cell(task, INSTRUCTED).forgetting for task in STRANGERS], "the same adapter without it"


def test_another_multitask_lora_can_take_the_place_of_the_zoos(whole, here, tmp_path):
    other = scaled(whole.bench.zoo.multitask(), 2.0)
    other.save(tmp_path / "tuned")
    bench, cells = evaluate(changed(here, multitask=tmp_path / "tuned", instructed=None, generators=("nearest",)))
    rows = [cell for cell in cells if cell.method == MULTITASK]
    for task, cell in zip(bench.tasks, rows, strict=True):
        assert (cell.scores, cell.short) == direct(bench, task, Lora.load(tmp_path / "tuned"))
    assert rows != of(whole, MULTITASK)
    with pytest.raises(ConfigError, match=r"adapters \(multi-task LoRA\)"):
        evaluate(changed(here, instructed=None, generators=("nearest",)))


def test_there_need_be_no_instructed_lora(whole, here):
    bench, cells = evaluate(changed(here, instructed=None, generators=("nearest",)))
    assert bench.methods == (BASE, MULTITASK, "nearest", ORACLE)
    assert timeless(cells) == timeless(cell for cell in whole.cells if cell.method in bench.methods)


# --- fitted to examples ---------------------------------------------------------------------------------------------

FITTED = ("multi-task LoRA, 3 a class", "topk, 3 a class")


@pytest.fixture
def fitting(config, tmp_path) -> EvaluateConfig:
    told = {"shots": 3, "generators": ("topk",), "recipe": {"steps": 4, "learning_rate": 3e-2, "window": 2}}
    some = {"generators": ("topk",), "instructed": None, "with_controls": False, "unrelated": 0}
    return changed(config, out=tmp_path / "fitting", few_shot=told, **some)


def test_adapters_are_fitted_to_a_few_examples_of_each_class(fitting):
    bench, cells = evaluate(fitting)
    assert bench.methods == (BASE, MULTITASK, "topk", *FITTED, ORACLE)
    assert bench.rivals == ("topk", MULTITASK, FITTED[0])
    found = {cell.key: cell for cell in cells}
    for task in bench.tasks:
        for row, begun in zip(FITTED, (MULTITASK, "topk"), strict=True):
            assert {seed for name, method, _, seed in found if (name, method) == (task.id, row)} == {3, 5}
            for seed in (3, 5):
                examples = task.load_train().few(3, rng=module._rng(task, f"examples {seed}"))
                assert sorted(examples.labels) == [0, 0, 0, 1, 1, 1]
                adapter = module._adapter(bench, task, begun, task.description, seed)
                data = TaskData.of(task, examples, bench.base, max_length=64)
                wanted = fit_examples(adapter, data, bench.base, fitting.few_shot.recipe)
                scores = score_task(bench.base, wanted, bench.data(task))
                cell = found[task.id, row, RIGHT, seed]
                assert cell.scores.cross_entropy == pytest.approx(scores.cross_entropy, abs=1e-4)
            one, other = (found[task.id, row, RIGHT, seed].adapter for seed in (3, 5))
            assert one != other, "another seed draws other examples"


def test_what_is_fitted_must_be_evaluated(fitting):
    with pytest.raises(ValueError, match="'few_shot' names sg, not among 'generators'"):
        changed(fitting, few_shot={"generators": ("topk", "sg")})


def test_rows_of_another_fit_are_refused(fitting):
    few = fitting.few_shot
    evaluate(changed(fitting, few_shot=None))
    evaluate(fitting)
    kept = state(fitting.out)
    longer = few.model_copy(update={"recipe": few.recipe.model_copy(update={"steps": 5})})
    with pytest.raises(ConfigError, match=r"other settings, tasks or adapters .*topk, 3 a class"):
        evaluate(changed(fitting, few_shot=longer.model_dump()))
    assert state(fitting.out) == kept


# --- interrupted ---


@pytest.fixture
def few(whole, config, tmp_path, monkeypatch) -> EvaluateConfig:
    """Two tasks and two generators, over a base whose numbers also depend on how many texts are embedded together."""
    bench = dataclasses.replace(whole.bench, tasks=whole.bench.tasks[:2], accuracies={})
    monkeypatch.setattr(Bench, "open", lambda config: reopened(bench, config))

    def embed(base, adapter, data):
        readout = read_task(base, adapter, data)
        drift = 1e-3 * len(data.ids)
        return dataclasses.replace(readout, texts=readout.texts + drift, logits=readout.logits * (1 + drift))

    monkeypatch.setattr(module, "read_task", embed)
    return changed(config, out=tmp_path / "few", generators=("mean", "sg"))


def test_interrupted_at_every_cell_it_ends_as_if_nothing_had_been(few):
    _, wanted = evaluate(few)
    again, known = changed(few, out=few.out.parent / "again"), 0
    file = CellFile(again.out / CELLS)

    def stop(_what, done, _total):
        if done > known:
            raise KeyboardInterrupt

    while known < len(wanted):
        before = file.path.read_bytes() if known else b""
        with pytest.raises(KeyboardInterrupt):
            evaluate(again, stop)
        known += 1
        assert file.path.read_bytes().startswith(before), "what was there is as it was"
        assert len(list(file.read())) == known, "and there is one cell more"
    assert timeless(file.read()) == timeless(wanted)
    _, cells = evaluate(again)
    assert cells == list(file.read())


def test_cells_that_were_kept_are_not_computed_again(whole, config, here, monkeypatch):
    lines, kept = (config.out / CELLS).read_bytes().splitlines(keepends=True), 70
    evaluate_nothing(here)
    (here.out / CELLS).write_bytes(b"".join(lines[:kept]))
    for generator in whole.bench.generators.values():
        monkeypatch.setattr(generator, "asked", [])
    _, cells = evaluate(here)
    for method, generator in whole.bench.generators.items():
        assert len(generator.asked) == len([cell for cell in whole.cells[kept:] if cell.method == method])
    assert timeless(cells) == timeless(whole.cells)
    assert cells[:kept] == whole.cells[:kept], "seconds and all"


def test_a_finished_evaluation_computes_nothing(whole, config, here, monkeypatch):
    evaluate_nothing(here)
    shutil.copy(config.out / CELLS, here.out / CELLS)
    monkeypatch.setattr(module, "read_task", None)
    reports = []
    _, cells = evaluate(here, lambda *step: reports.append(step))
    assert cells == whole.cells
    assert reports == [("adapters", len(cells), len(cells))]


def test_a_line_that_was_cut_off_is_computed_again(whole, config, here):
    evaluate_nothing(here)
    (here.out / CELLS).write_bytes((config.out / CELLS).read_bytes()[:-30])
    _, cells = evaluate(here)
    assert timeless(cells) == timeless(whole.cells)
    assert len(list(CellFile(here.out / CELLS).read())) == len(whole.cells)


# --- more rows and fewer ---


def test_rows_that_come_later_are_added_to_those_that_are_there(whole, here, monkeypatch):
    _, few = evaluate(changed(here, generators=("nearest",), instructed=None))
    before = (here.out / CELLS).read_bytes()
    monkeypatch.setattr(whole.bench.generators["nearest"], "generate", None)  # what is there is not made again
    _, cells = evaluate(changed(here, generators=("sg", "nearest")))
    assert (here.out / CELLS).read_bytes().startswith(before)
    wanted = [cell for cell in whole.cells if cell.method not in ("mean", "topk")]
    assert sorted(timeless(cells), key=lambda cell: cell.key) == sorted(timeless(wanted), key=lambda cell: cell.key)
    assert list(dict.fromkeys(cell.method for cell in cells)) == [BASE, MULTITASK, INSTRUCTED, "sg", "nearest", ORACLE]
    assert {cell.key for cell in few} < {cell.key for cell in cells}


def test_rows_that_are_no_longer_asked_for_stay_on_disk(whole, config, monkeypatch):
    monkeypatch.setattr(Bench, "open", lambda config: reopened(whole.bench, config))
    monkeypatch.setattr(module, "read_task", None)
    before = state(config.out)
    _, cells = evaluate(changed(config, generators=("topk",), instructed=None))
    assert cells == [cell for cell in whole.cells if cell.method in (BASE, MULTITASK, "topk", ORACLE)]
    assert state(config.out) == before, "and what they are worth beside them"


# --- other settings ---


@pytest.mark.parametrize(
    "values",
    [
        {"seeds": (3,)},
        {"short": 21},
        {"splits": ("near",)},
        {"with_controls": False},
        {"unrelated": 1},
        {"unrelated_texts": 21},
    ],
    ids=lambda values: next(iter(values)),
)
def test_cells_of_other_settings_are_refused_and_left_alone(whole, config, values, monkeypatch):
    monkeypatch.setattr(Bench, "open", lambda config: reopened(whole.bench, config))
    before = state(config.out)
    with pytest.raises(ConfigError, match=r"other settings.*give another 'out'"):
        evaluate(changed(config, **values))
    assert state(config.out) == before


@pytest.fixture
def copied(config, whole, tmp_path) -> EvaluateConfig:
    """A config over copies of all that it names, and an evaluation of it that was just begun."""
    for name in ("zoo", "oracles", "instructed", "base"):
        shutil.copytree(config.zoo.parent / name, tmp_path / name)
    shutil.copytree(config.zoo.parent / "data", tmp_path / "data")
    tasks = config.tasks.read_text()
    (tmp_path / "tasks.yaml").write_text(tasks.replace(str(config.zoo.parent / "data"), str(tmp_path / "data")))
    shutil.copytree(config.zoo / "generators" / "sg", tmp_path / "sg")
    places = {name: tmp_path / name for name in ("zoo", "oracles", "instructed")}
    own = changed(
        config,
        **places,
        tasks=tmp_path / "tasks.yaml",
        encoder=str(tmp_path / "base"),
        generators=("mean", str(tmp_path / "sg")),
        out=tmp_path / "out",
    )

    with pytest.raises(KeyboardInterrupt):
        evaluate(own, interrupt)
    return own


@pytest.mark.parametrize(
    ("name", "change", "named"),
    [
        ("oracles/experts/menus", double, "oracle"),
        ("zoo/multitask", double, "multi-task LoRA"),
        ("instructed", double, "instructed LoRA"),
        ("sg/generator.yaml", lambda file: replace_in(file, "prior_scale: 1.0", "prior_scale: 0.5"), ".*/sg"),
        ("tasks.yaml", lambda file: replace_in(file, "Is it cold or soup?", "Is it soup, or is it cold?"), "tasks"),
        ("data/menus.test.jsonl", lambda file: replace_in(file, '"label": "cold"', '"label": "soup"'), "test files"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_cells_of_other_adapters_or_tasks_are_refused_and_left_alone(copied, name, change, named):
    before = state(copied.out)
    change(copied.out.parent / name)
    with pytest.raises(ConfigError, match=rf"other settings, tasks or adapters \({named}\)"):
        evaluate(copied)
    assert state(copied.out) == before


def test_cells_of_another_precision_are_refused(copied, monkeypatch):
    monkeypatch.setattr(module, "choose_dtype", lambda _name: torch.bfloat16)
    with pytest.raises(ConfigError, match=r"adapters \(dtype\)"):
        evaluate(copied)


def test_the_precision_is_the_one_asked_for(config, monkeypatch):
    asked = []
    monkeypatch.setattr(module, "choose_dtype", lambda name: asked.append(name) or torch.float32)
    Bench.open(changed(config, dtype="bfloat16"))
    assert asked == ["bfloat16"]


def test_no_split_goes_by_the_name_of_all_tasks(config):
    with pytest.raises(ValueError, match="cannot be called 'all'"):
        changed(config, splits=("all", "near"))


def test_cells_of_other_experts_are_refused_and_left_alone(copied):
    merges = changed(copied, generators=("mean",), out=copied.out.parent / "merges")
    with pytest.raises(KeyboardInterrupt):
        evaluate(merges, interrupt)
    before = state(merges.out)
    double(merges.zoo / "experts" / "drinks")
    with pytest.raises(ConfigError, match="other settings"):
        evaluate(merges)
    assert state(merges.out) == before


def test_cells_without_their_settings_are_refused(copied):
    (copied.out / RUN).unlink()
    before = state(copied.out)
    with pytest.raises(ConfigError, match="other settings"):
        evaluate(copied)
    assert state(copied.out) == before


# --- leaks ---


def test_a_task_that_was_trained_on_is_refused(config, tmp_path):
    leaky = with_splits(config, tmp_path, near=["cups", "meals"])
    with pytest.raises(ConfigError, match=r"meals: trained on.*leave them out") as met:
        evaluate(leaky)
    assert "cups" not in str(met.value)
    assert not leaky.out.exists()


def test_a_task_of_a_known_family_is_refused_where_families_are_to_be_unseen(config, tmp_path):
    leaky = with_splits(config, tmp_path, near=[], far=["menus", "cups"])
    with pytest.raises(ConfigError, match=r"cups: of a family that the experts of .* hold") as met:
        evaluate(leaky)
    assert "menus" not in str(met.value)
    assert not leaky.out.exists()
    assert Bench.open(changed(leaky, unseen_families=())).split_of == {"menus": "far", "cups": "far"}


def test_families_that_may_be_known_are_not_refused_beside_those_that_may_not(whole):
    assert whole.bench.split_of["cups"] == "near", "whose family is that of drinks"
    bench = whole.bench
    refuse_leaks(bench.zoo, bench.tasks, bench.split_of, ("far",))
    with pytest.raises(ConfigError, match="cups: of a family"):
        refuse_leaks(bench.zoo, bench.tasks, bench.split_of, ("near",))


def test_a_task_without_a_family_is_a_family_of_its_own(whole):
    zoo, (ovens,) = whole.bench.zoo, [task for task in whole.bench.tasks if task.id == "ovens"]
    weather = ovens.model_copy(update={"id": "ovens2", "family": "weather"})  # an expert's id, which has no family
    refuse_leaks(zoo, [ovens], {"ovens": "far"}, ("far",))
    with pytest.raises(ConfigError, match="ovens2"):
        refuse_leaks(zoo, [weather], {"ovens2": "far"}, ("far",))


def test_experts_that_nothing_was_learnt_from_are_no_leak(whole):
    """A zoo's other splits serve for choosing settings, and may be their own oracles."""
    bench = whole.bench
    cards = {
        name: card.model_copy(update={"split": "validation"}) if name == "meals" else card
        for name, card in bench.zoo.cards.items()
    }
    task = bench.tasks[0].model_copy(update={"id": "meals", "family": "meal"})
    with pytest.raises(ConfigError, match="meals: trained on"):
        refuse_leaks(bench.zoo, [task], {"meals": "far"}, ("far",))
    refuse_leaks(dataclasses.replace(bench.zoo, cards=cards), [task], {"meals": "far"}, ("far",))


def test_a_slip_of_the_pen_does_not_switch_the_check_off(config, tmp_path):
    with pytest.raises(TaskError, match="no split 'fra'"):
        evaluate(changed(config, unseen_families=("fra",), out=tmp_path / "out"))


def with_splits(config, folder, **splits):
    text = config.tasks.read_text()
    head, _, _ = text.partition("splits:\n")
    kept = {"experts": [*EXPERTS], "near": [*NEAR], "far": [*FAR]} | splits
    (folder / "tasks.yaml").write_text(head + dump_yaml({"splits": kept}))
    return changed(config, tasks=folder / "tasks.yaml", out=folder / "out")


# --- what does not go together ---


def test_a_task_without_an_oracle_is_named(config, tmp_path):
    shutil.copytree(config.oracles, tmp_path / "oracles")
    shutil.rmtree(tmp_path / "oracles" / "experts" / "plates")
    with pytest.raises(ZooError, match="plates"):
        evaluate(changed(config, oracles=tmp_path / "oracles", out=tmp_path / "out"))


def test_oracles_of_another_base_are_refused(config, tmp_path):
    shutil.copytree(config.oracles, tmp_path / "oracles")
    replace_in(tmp_path / "oracles" / "zoo.yaml", "base_hash: ", "base_hash: 0")
    with pytest.raises(ConfigError, match="adapt other weights"):
        evaluate(changed(config, oracles=tmp_path / "oracles", out=tmp_path / "out"))


def test_a_base_whose_weights_have_changed_is_refused(copied):
    base = write_tiny_encoder(copied.out.parent / "other", seed=2)
    for place in (copied.zoo, copied.oracles):
        replace_in(place / "zoo.yaml", Zoo.open(place).manifest.base, str(base))
    with pytest.raises(ConfigError, match="has other weights here"):
        evaluate(copied)


# --- what scores are made of ---


def test_test_examples_are_shuffled_the_same_way_each_time(tmp_path):
    task = word_task(tmp_path)
    met, file = shuffled(task), task.load_test()
    pairs = list(zip(file.texts, file.labels, strict=True))
    assert list(zip(met.texts, met.labels, strict=True)) != pairs
    assert sorted(zip(met.texts, met.labels, strict=True)) == sorted(pairs)
    assert shuffled(task) == met
    assert set(met.labels[:10]) == {0, 1}


def blobs(*centres, size=6):
    """Texts around unit vectors of a small space, a blob each."""
    rng = torch.Generator().manual_seed(0)
    texts = torch.eye(4)[list(centres)].repeat_interleave(size, 0)
    return torch.nn.functional.normalize(texts + 0.02 * torch.randn(texts.shape, generator=rng), dim=1)


def test_v_measure_of_clusters_that_are_the_classes_is_one():
    targets = torch.tensor([2, 0, 1]).repeat_interleave(6)
    assert v_measure(blobs(0, 1, 2), targets) == pytest.approx(1)
    assert v_measure(blobs(0, 1, 2), 2 - targets) == pytest.approx(1), "whatever their numbers"


def test_v_measure_of_merged_and_split_classes_is_that_of_sklearn():
    """Classes 0 and 1 share a blob and class 2 has two, where three clusters are found."""
    targets = torch.tensor([0, 1, 2, 2]).repeat_interleave(6)
    texts, found = blobs(0, 0, 1, 2), [0] * 12 + [1] * 6 + [2] * 6
    wanted = v_measure_score(targets.numpy(), found)
    assert 0 < wanted < 1
    assert v_measure(texts, targets) == pytest.approx(wanted)


def test_v_measure_of_classes_that_lie_across_the_clusters_is_nothing():
    targets = torch.tensor([0, 1] * 6)
    assert v_measure(blobs(0, 1), targets) == pytest.approx(0, abs=1e-6)


def test_clustering_is_scored_where_it_is_asked_for():
    targets = torch.tensor([0, 1, 2]).repeat_interleave(6)
    texts = blobs(0, 1, 2)
    readout = Readout(texts, texts @ torch.eye(4)[:3].T, targets)
    assert scores_of(readout).v_measure is None
    assert scores_of(readout, clustering=True) == scores_of(readout).model_copy(update={"v_measure": 1.0})
