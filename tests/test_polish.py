import copy
import dataclasses
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml
from models import word_task, write_tiny_encoder
from torch import Tensor, nn

from loragen import cli
from loragen.adapter import Adapter
from loragen.backbone import Backbone
from loragen.config import dump_yaml
from loragen.embedding import TextEncoder
from loragen.errors import ConfigError
from loragen.experts import ExpertRecipe, MultitaskRecipe, Start, train_expert
from loragen.files import atomic_write
from loragen.folds import FOLDS, Fold, FoldPlan, write_fold
from loragen.generators import task_fit
from loragen.generators.attention_fit import AttentionTrainConfig
from loragen.generators.base import Condition
from loragen.generators.catalogue import open_generator
from loragen.generators.conditions import Conditioner
from loragen.generators.icm import ICM, ICMBatch, ICMConfig, ICMNetwork, ICMObjective
from loragen.generators.icm_episodes import ICMTrainConfig
from loragen.generators.icm_episodes import episodes as icm_episodes
from loragen.generators.icm_episodes import prepare as prepare_icm
from loragen.generators.icm_fit import ICMCoder, Run, fit_icm
from loragen.generators.polish import PolishBatch, PolishConfig, PolishMaker, PolishObjective
from loragen.generators.sg import SG, SGBatch, SGConfig, SGLibrary, SGNetwork, SGObjective
from loragen.generators.sg_fit import SGCoder, SGTrainConfig, fit_sg, training_batches
from loragen.generators.sg_fit import prepare as prepare_sg
from loragen.generators.task_episodes import Material, episodes, prepare
from loragen.generators.task_fit import Judge
from loragen.generators.task_loss import TaskBatch, TaskObjective
from loragen.runs import LOSSES, PLOT, read_config, train_generator
from loragen.schedule import Schedule
from loragen.task_vectors import Reader
from loragen.taskdata import TaskData
from loragen.tasks import Task, TaskSet, TaskSource
from loragen.training import fit
from loragen.zoo import MANIFEST, MULTITASK, Card, Manifest, Zoo, default_zoo, expert_files

EXPERTS = {
    "cups": ("tea", "warm"),
    "drinks": ("soup", "tea"),
    "meals": ("bread", "soup"),
    "suppers": ("soup", "bread"),
    "weather": ("cold", "warm"),
}
LEFT_OUT = {"menus": ("cold", "soup"), "ovens": ("bread", "warm")}
FAMILY = {"cups": "drink", "drinks": "drink"}
"""The others have none: each is its own."""
WORDS = ("soup", "bread", "cold", "warm", "tea")
NEAR = ("cups", "drinks")
RECIPE = ExpertRecipe(r=2, steps=12, batch_size=16, learning_rate=5e-2, window=4, snapshots=2)
KINDS = ("sg", "icm")

Config = SGTrainConfig | ICMTrainConfig
Generator = SG | ICM
Trained = tuple[Generator, list[dict[str, float]]]


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# --- a base, tasks and a zoo with folds -----------------------------------------------------------------------------


def five_way_task(folder: Path) -> Task:
    """Which of the five words stands among letters?"""
    rng = seeded(5)
    rows = []
    for i in range(100):
        letters = ["abcdefghij"[j] for j in torch.randint(10, (3,), generator=rng).tolist()]
        letters.insert(i % 4, WORDS[i % 5])
        rows.append(json.dumps({"text": " ".join(letters), "label": WORDS[i % 5]}))
    for part in ("train", "test"):
        (folder / f"words.{part}.jsonl").write_text("\n".join(rows))
    source = TaskSource(train=str(folder / "words.train.jsonl"), test=str(folder / "words.test.jsonl"))
    return Task(id="words", description="Which word is it?", labels=WORDS, source=source, licence="MIT")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny base, a task file, and a zoo of six experts of five families with an adapter for all tasks and folds."""
    root = tmp_path_factory.mktemp("polish")
    base = Backbone.load(str(write_tiny_encoder(root / "base", seed=1)))
    tasks = [
        word_task(root / "data", name, words=words, train=80).model_copy(
            update={"family": FAMILY.get(name, ""), "paraphrases": (f"{words[1]}, or {words[0]}?",)}
        )
        for name, words in (EXPERTS | LEFT_OUT).items()
    ]
    tasks.append(five_way_task(root / "data"))
    values = {"tasks": [t.model_dump(mode="json") for t in tasks], "splits": {"validation": [*LEFT_OUT]}}
    (root / "tasks.yaml").write_text(dump_yaml(values))
    manifest = Manifest(
        name="tiny",
        base=str(root / "base"),
        base_hash=base.fingerprint,
        frame="random",
        start="zero",
        recipe=RECIPE,
        multitask=MultitaskRecipe(),
    )
    atomic_write(root / "zoo" / MANIFEST, manifest.to_yaml())
    start = Start.random(base.sites(RECIPE.target_modules), RECIPE.r, rng=seeded())
    for task in tasks:
        if task.id not in LEFT_OUT:
            expert = train_expert(task, base, start, RECIPE)
            card = Card.of(task, expert, manifest, split="experts", seconds=1.0, dtype="float32", versions={})
            adapter, files = expert_files(expert, card)
            adapter.save(root / "zoo" / "experts" / task.id, extra_files=files)
    zoo = Zoo.open(root / "zoo")
    for_all = [somewhere(start, seed) for seed in range(4)]
    for_all[0].save(root / "zoo" / MULTITASK)
    parts = [NEAR, ("meals", "suppers"), ("weather", "words")]
    for number, (far, adapter) in enumerate(zip(parts, for_all[1:], strict=True)):
        plan = FoldPlan(far=far, near=NEAR if number == 1 else ())
        write_fold(zoo.root / FOLDS / str(number), Fold(plan, adapter))
    return root


def somewhere(start: Start, seed: int) -> Adapter:
    rng = seeded(seed)
    factors = {site: 0.1 * torch.randn(b.shape, generator=rng) for site, b in start.lora_B.items()}
    return Adapter.from_factors(start.lora_A, factors, base_model_name_or_path=None)


@pytest.fixture(scope="module")
def zoo(root) -> Zoo:
    return Zoo.open(root / "zoo")


@pytest.fixture(scope="module")
def encoder(root) -> TextEncoder:
    return TextEncoder.load(str(root / "base"))


@pytest.fixture(scope="module")
def tasks(root) -> TaskSet:
    return TaskSet.from_yaml(root / "tasks.yaml")


@pytest.fixture(scope="module")
def configs(root) -> dict[str, Config]:
    """Four steps on weights, and thirty on tasks."""
    shared = {
        "zoo": root / "zoo",
        "encoder": str(root / "base"),
        "out": root / "out",
        "objective": "both",
        "epochs": 2,
        "steps_per_epoch": 2,
        "batch_size": 8,
        "polish": PolishConfig(
            tasks=root / "tasks.yaml",
            judged_texts=40,
            variants=2,
            epochs=3,
            steps_per_epoch=10,
            batch_size=16,
            learning_rate=0.02,
            dtype="float32",
            reconstruction_weight=0.1,
        ),
    }
    return {
        "sg": SGTrainConfig(
            generator="sg",
            sg=SGConfig(top_k=2, components=4, latent_size=3, hidden_size=16, decoder="direct"),
            **shared,
        ),
        "icm": ICMTrainConfig(
            generator="icm",
            icm=ICMConfig(evidence=("description", "texts"), channels=(4, 4), latent_size=3, components=4),
            tasks=root / "tasks.yaml",
            pool=30,
            shots=(1, 4),
            **shared,
        ),
    }


ASKED = "Is it bread or cold soup?"


def asked_of(generator: Generator, encoder: TextEncoder) -> Condition:
    return Conditioner.of(generator, encoder).condition(ASKED)


def of_experts(config: Config, zoo: Zoo, encoder: TextEncoder) -> SGBatch | ICMBatch:
    """A batch for the generator's own loss."""
    if isinstance(config, SGTrainConfig):
        material = prepare_sg(zoo, encoder, components=config.sg.components)
        return training_batches(material, config.sg, steps=1, batch_size=8, rng=seeded())[0]
    return Run.of(config, prepare_icm(config, zoo, encoder), range(len(zoo))).own().batches(1, seeded())[0]


def changed(config: Config, *, polish: dict[str, object] | None = None, **values: object) -> Config:
    parts = config.model_dump() | values
    return type(config).model_validate(parts | {"polish": parts["polish"] | (polish or {})})


def train(config: Config, zoo: Zoo, encoder: TextEncoder, **options: object) -> Trained:
    if isinstance(config, SGTrainConfig):
        return fit_sg(config, zoo, encoder, **options)
    return fit_icm(config, zoo, encoder, **options)


@pytest.fixture(scope="module")
def fitted(configs, zoo, encoder) -> dict[tuple[str, str], Trained]:
    """By kind and objective; left-out tasks choose the epoch of the one whose objective is both."""
    found = {}
    for kind, config in configs.items():
        for objective in ("weights", "task", "both"):
            judged_on = "validation" if objective == "both" else None
            asked = changed(config, objective=objective, polish={"judged_on": judged_on})
            found[kind, objective] = train(asked, zoo, encoder)
    return found


@pytest.fixture(scope="module")
def to_the_end(configs, zoo, encoder) -> dict[str, Trained]:
    """Of both objectives, with nothing to choose the epoch."""
    return {kind: train(changed(c, polish={"judged_on": None}), zoo, encoder) for kind, c in configs.items()}


@pytest.fixture(scope="module")
def materials(configs, zoo, encoder) -> dict[str, Material]:
    """What the training on tasks learns from, by kind."""
    found = {}
    for kind, config in configs.items():
        with pytest.MonkeyPatch.context() as patch:

            def kept(*args: object, kind: str = kind, **options: object) -> Material:
                found[kind] = prepare(*args, **options)
                return found[kind]

            patch.setattr(task_fit, "prepare", kept)
            short = changed(config, objective="task", polish={"judged_on": None, "epochs": 1, "steps_per_epoch": 1})
            train(short, zoo, encoder)
    return found


def state(generator: Generator) -> dict[str, Tensor]:
    return generator.network.state_dict()


def distance(one: dict[str, Tensor], other: dict[str, Tensor]) -> float:
    assert one.keys() == other.keys()
    return max(float((value - other[name]).abs().max()) for name, value in one.items())


def coder_of(generator: Generator) -> SGCoder | ICMCoder:
    network = copy.deepcopy(generator.network)
    if isinstance(generator, SG):
        return SGCoder(network, generator.library, generator.config)
    return ICMCoder(network, generator.config.prior_scale)


def maker_of(generator: Generator, material: Material) -> PolishMaker:
    # The codec of a polished generator has been shifted to where a generation begins.
    begun = material.start if generator.manifest.polished else material.origin
    return PolishMaker(coder_of(generator), generator.codec, begun)


@torch.no_grad()
def task_loss(generator: Generator, material: Material, config: Config, backbone: Backbone) -> float:
    """Mean over fresh episodes, at the mean of the prior."""
    objective = TaskObjective(backbone, maker_of(generator, material), material.frame, contrast_weight=1.0).eval()
    fresh = episodes(material, config.on_tasks().model_copy(update={"steps_per_epoch": 40}), rng=seeded(99))
    return sum(float(objective.loss(batch)["loss"]) for batch in fresh) / len(fresh)


@pytest.fixture(scope="module")
def backbone(root) -> Backbone:
    return Backbone.load(str(root / "base"))


# --- what is told ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_the_steps_are_those_of_all_trainings(configs, kind: str) -> None:
    config = configs[kind]
    assert [changed(config, objective=o).steps for o in ("weights", "task", "both")] == [4, 30, 34]
    if kind == "icm":
        assert changed(config, folds=2).steps == 3 * 4 + 30


@pytest.mark.parametrize("kind", KINDS)
def test_polishing_is_told_by_its_own_part_and_the_rest_by_the_run(configs, kind: str) -> None:
    config = changed(configs[kind], seed=7, weight_decay=0.5)
    told = config.on_tasks()
    for name, value in config.polish:
        assert name == "reconstruction_weight" or getattr(told, name) == value, name
    assert (told.seed, told.weight_decay, told.zoo, told.out) == (7, 0.5, config.zoo, config.out)
    assert (told.pool, told.shots) == ((30, (1, 4)) if kind == "icm" else (96, (4, 8, 16, 32)))


@pytest.mark.parametrize(
    ("kind", "values", "named"),
    [
        ("sg", {"polish": None}, "'objective: both' wants 'polish', at least its 'tasks'"),
        ("icm", {"polish": None, "objective": "task"}, "'objective: task' wants 'polish'"),
        ("sg", {"objective": "weight"}, "objective"),
        ("icm", {"icm": {"codec": "raw"}}, r"'objective: both' goes with 'icm\.codec: frame'"),
        ("icm", {"through": "own_adapter"}, "and 'through: base'"),
    ],
)
def test_settings_that_do_not_fit_are_named(configs, kind: str, values: dict[str, object], named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        type(configs[kind]).checked(configs[kind].model_dump() | values, source="train.yaml")


def without(path: Path, *names: str) -> None:
    """Drop settings from a YAML file, as one that was written before there were any."""
    settings = yaml.safe_load(path.read_text())
    path.write_text(yaml.safe_dump({name: value for name, value in settings.items() if name not in names}))


def test_what_was_trained_before_there_was_polish_still_loads(tmp_path) -> None:
    for kind, generator in (("sg", SG), ("icm", ICM)):
        folder = shutil.copytree(default_zoo() / "generators" / kind, tmp_path / kind)
        without(folder / "generator.yaml", "polished")
        without(folder / "run.yaml", "objective", "polish")
        assert generator.load(folder).manifest.polished is None
        assert read_config(folder / "run.yaml").objective == "weights"


# --- what is read of a task -----------------------------------------------------------------------------------------


def test_sg_reads_embeddings_and_variants_name_their_labels(materials, configs, tasks, zoo, encoder, backbone) -> None:
    material = materials["sg"]
    (whole,) = material.tasks[zoo.ids.index("meals")]
    assert whole.states.keys() == {"description"}
    torch.testing.assert_close(whole.states["description"], encoder.encode(tasks["meals"].descriptions))
    variants = material.tasks[zoo.ids.index("words")][1:]
    assert len(variants) == 2
    for variant in variants:
        labels = [backbone.tokenizer.decode(ids, skip_special_tokens=True) for ids in variant.data.label_ids]
        told = encoder.encode([f"Which word is it? The answer is one of: {', '.join(labels)}."])
        torch.testing.assert_close(variant.states["description"], told)
    torch.testing.assert_close(material.told("Is it soup?"), encoder.encode(["Is it soup?"]))
    for batch in episodes(material, configs["sg"].on_tasks(), rng=seeded()):
        assert float(batch.query.norm()) == pytest.approx(1), "as they are, neither centred nor scaled"


def test_icm_reads_its_own_evidence_as_its_own_reading_says(configs, tasks, zoo, encoder, root, monkeypatch) -> None:
    other = write_tiny_encoder(root / "other", seed=2)
    asked = changed(configs["icm"], reading_model=str(other), pooling="last", objective="task", polish={"epochs": 1})
    seen = []
    monkeypatch.setattr(task_fit, "prepare", lambda *args, **options: seen.append(prepare(*args, **options)) or seen[0])
    generator, _ = train(changed(asked, polish={"judged_on": None, "steps_per_epoch": 1}), zoo, encoder)
    (material,) = seen
    (whole,) = material.tasks[zoo.ids.index("meals")]
    reader = Reader.load(generator.reading)
    assert tuple(whole.states) == ("description", "texts")
    torch.testing.assert_close(whole.states["description"], reader.descriptions(tasks["meals"].descriptions))
    condition = Conditioner.of(generator, encoder).condition("Is it soup?")
    wanted = generator.conditions.of(condition.task_vectors, generator.evidence)
    torch.testing.assert_close(material.told("Is it soup?").flatten(), wanted)
    base = Backbone.load(zoo.manifest.base)
    assert (
        whole.data.label_ids == TaskData.of(tasks["meals"], tasks["meals"].load_test(), base, max_length=64).label_ids
    )


# --- what is made in a step -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("top_k", [2, 100])
def test_neither_the_own_expert_nor_in_far_episodes_its_family_is_in_the_mixture(
    materials, configs, top_k: int
) -> None:
    material = materials["sg"]
    n = len(material.tasks)
    # With unit vectors for experts, the mean of a mixture holds their weights.
    library = SGLibrary(tuple(map(str, range(n))), torch.eye(n), torch.zeros(n, n), material.keys[:, 0])
    config = SGConfig(top_k=top_k, temperature=0.5)
    coder = SGCoder(SGNetwork(n, config), library, config)
    batches = episodes(material, changed(configs["sg"], polish={"steps_per_epoch": 100}).on_tasks(), rng=seeded())
    for batch in batches:
        weights = coder.mixture(batch).mean
        assert not weights[~batch.allowed].any()
        assert float(weights.sum()) == pytest.approx(1)
        allowed = batch.allowed.nonzero()[:, 0]
        found = (library.embeddings[allowed] @ batch.query[0]).topk(min(top_k, len(allowed)))
        torch.testing.assert_close(weights[allowed[found.indices]], torch.softmax(found.values / 0.5, 0))
    far = {tuple((~row).tolist()) for row in material.related}
    near = {tuple(at != own for at in range(n)) for own in (0, 1)}
    assert {tuple(batch.allowed.tolist()) for batch in batches} == far | near


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_what_is_made_is_shifted_to_where_the_episode_starts(fitted, materials, configs, kind: str) -> None:
    maker = maker_of(fitted[kind, "weights"][0], materials[kind]).eval()
    start = materials[kind].origin
    for batch in episodes(materials[kind], configs[kind].on_tasks(), rng=seeded()):
        assert (batch.start - start).abs().max() > 0.1
        unshifted = maker(dataclasses.replace(batch, start=start))
        torch.testing.assert_close(maker(batch), unshifted + batch.start - start)
        torch.testing.assert_close(unshifted, fitted[kind, "weights"][0].codec.decode(maker.coder(batch)))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("objective", ["weights", "both"])
def test_a_generation_is_what_was_judged_from_the_mean_of_the_folds_after_task_loss_alone(
    fitted, materials, encoder, kind: str, objective: str
) -> None:
    generator, _ = fitted[kind, objective]
    config = generator.config.model_copy(update={"prior_scale": 0.0})
    still = dataclasses.replace(generator, manifest=generator.manifest.model_copy(update={"config": config}))
    made = still.generate(asked_of(generator, encoder), rng=seeded())[0].adapter
    material = materials[kind]
    n, kinds = len(material.tasks), len(material.evidence)
    present = torch.tensor([name == "description" for name in material.evidence])
    torch.testing.assert_close(material.start, material.folds.starts.mean(0))
    start = material.start if objective == "both" else material.origin
    batch = TaskBatch(None, material.told(ASKED), present, torch.ones(n, dtype=torch.bool), start)
    assert batch.query.shape[0] == kinds
    maker = PolishMaker(coder_of(generator), fitted[kind, "weights"][0].codec, material.origin)
    with torch.no_grad():
        coordinates = maker.eval()(batch)
    torch.testing.assert_close(material.frame.coordinates(made), coordinates, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_a_step_draws_once_from_the_prior_and_judging_takes_its_mean(fitted, materials, configs, kind: str) -> None:
    generator = fitted[kind, "weights"][0]
    maker = maker_of(generator, materials[kind])
    batch = episodes(materials[kind], configs[kind].on_tasks(), rng=seeded())[0]
    still = [maker.eval()(batch) for _ in range(2)]
    assert torch.equal(*still)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        drawn = [maker.train()(batch) for _ in range(2)]
        torch.manual_seed(0)
        assert torch.equal(drawn[0], maker(batch))
        noise = torch.manual_seed(0) and torch.randn(3)
    assert min((drawn[0] - other).abs().max() for other in (drawn[1], still[0])) > 1e-4
    if kind == "sg":
        condition = maker.coder.mixture(batch)
        codes = generator.network.decode(generator.network.prior_of(condition).sample(noise), condition)
    else:
        codes = generator.network.decode(noise[None], batch.query.flatten()[None])[0]
    shift = batch.start - materials[kind].origin
    torch.testing.assert_close(drawn[0], generator.codec.decode(codes) + shift, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_what_it_makes_with_moves_with_the_network_and_is_no_part_of_its_state(
    fitted, materials, configs, kind: str
) -> None:
    maker = maker_of(fitted[kind, "weights"][0], materials[kind])
    assert set(maker.state_dict()) == {f"coder.network.{name}" for name in maker.coder.network.state_dict()}
    meta = torch.device("meta")  # refuses to mix with what is not there
    batch = episodes(materials[kind], configs[kind].on_tasks(), rng=seeded())[0].to(meta)
    assert maker.to(meta)(batch).device == meta


# --- the loss -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("weight", [0.5, 2.0])
def test_the_loss_is_that_of_the_texts_and_the_generators_own(
    fitted, materials, configs, backbone, zoo, encoder, kind: str, weight: float
) -> None:
    material, config = materials[kind], configs[kind]
    maker = maker_of(fitted[kind, "weights"][0], material).requires_grad_(True)
    task = TaskObjective(backbone, maker, material.frame, contrast_weight=1.0)
    own = (SGObjective if kind == "sg" else ICMObjective)(maker.coder.network, 0.3)
    objective = PolishObjective(task, own, weight)
    batch = PolishBatch(episodes(material, config.on_tasks(), rng=seeded())[0], of_experts(config, zoo, encoder))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        found = objective.loss(batch)
        torch.manual_seed(0)
        of_task, of_experts_ = task.loss(batch.task), own.loss(batch.experts)
    assert found.keys() == {"loss", "label_text", "contrast", "reconstruction", "kl"}
    torch.testing.assert_close(found["loss"], of_task["loss"] + weight * of_experts_["loss"])
    for name, value in (of_task | of_experts_).items():
        assert name == "loss" or torch.equal(found[name], value)
    found["loss"].backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in maker.coder.network.parameters())
    assert {id(p) for p in objective.parameters()} == {id(p) for p in maker.coder.network.parameters()}
    assert all(p.grad is None for p in backbone.model.parameters())


# --- training -------------------------------------------------------------------------------------------------------


def plainly(config: Config, zoo: Zoo, encoder: TextEncoder) -> tuple[dict[str, Tensor], list[dict[str, float]]]:
    """Train on weights with nothing of polishing in between."""
    if isinstance(config, SGTrainConfig):
        material = prepare_sg(zoo, encoder, components=config.sg.components)

        def build() -> nn.Module:
            return SGNetwork(material.codec.size, config.sg)

        def batches(epoch: int) -> list[SGBatch]:
            rng = seeded(1_000_003 * config.seed + epoch)
            return training_batches(material, config.sg, steps=config.steps_per_epoch, batch_size=8, rng=rng)

        objective, weight = SGObjective, config.sg.kl_weight
    else:
        material, everyone = prepare_icm(config, zoo, encoder), range(len(zoo))
        codec, conditions = material.codec(everyone, config.icm), material.conditions(everyone)
        codes = material.codes(everyone, codec, config.icm)

        def build() -> nn.Module:
            return ICMNetwork(codec.size, conditions.size, config.icm)

        def batches(epoch: int) -> list[ICMBatch]:
            rng = seeded(1_000_003 * config.seed + epoch)
            return icm_episodes(material, everyone, codes, conditions, config, rng=rng)

        objective, weight = ICMObjective, config.icm.kl_weight
    with torch.random.fork_rng():
        torch.manual_seed(config.seed)
        network = build()
    schedule = Schedule(config.epochs, config.steps_per_epoch, config.learning_rate, weight_decay=config.weight_decay)
    history = fit(objective(network, weight), batches, schedule, seed=config.seed)
    return network.state_dict(), history


def rounded(weights: dict[str, Tensor], kind: str) -> dict[str, Tensor]:
    """As a generator holds them: ICM its matrices in bfloat16."""
    return {n: w.bfloat16().float() if kind == "icm" and w.ndim > 1 else w for n, w in weights.items()}


@pytest.mark.parametrize("kind", KINDS)
def test_the_objective_weights_is_the_plain_training(fitted, configs, zoo, encoder, kind: str) -> None:
    generator, history = fitted[kind, "weights"]
    network, losses = plainly(configs[kind], zoo, encoder)
    assert distance(state(generator), rounded(network, kind)) < 1e-5
    for one, other in zip(history, losses, strict=True):
        assert one == pytest.approx(other, abs=1e-5)
    assert generator.manifest.polished is None


@pytest.mark.parametrize("kind", KINDS)
def test_the_losses_are_those_of_all_trainings(to_the_end, fitted, kind: str) -> None:
    weights, both, task = (fitted[kind, "weights"], to_the_end[kind], fitted[kind, "task"])
    for one, other in zip(weights[1], both[1][:4], strict=True):
        assert one == pytest.approx(other, abs=1e-5)
    assert [len(history) for _, history in (weights, both, task)] == [4, 34, 30]
    assert both[1][-1].keys() == {"loss", "label_text", "contrast", "reconstruction", "kl"}
    assert task[1][-1].keys() == {"loss", "label_text", "contrast"}, "task loss alone"
    for objective, (generator, _) in (("both", both), ("task", task)):
        polished = generator.manifest.polished
        assert (polished.objective, polished.epochs, polished.worth) == (objective, 3, ())


@pytest.mark.parametrize("kind", KINDS)
def test_training_on_tasks_lowers_the_loss_of_tasks(fitted, to_the_end, materials, configs, backbone, kind) -> None:
    before, after, alone = (
        task_loss(generator, materials[kind], configs[kind], backbone)
        for generator in (fitted[kind, "weights"][0], to_the_end[kind][0], fitted[kind, "task"][0])
    )
    assert after < 0.97 * before
    assert alone < 0.97 * before


@pytest.mark.parametrize("kind", KINDS)
def test_draws_still_differ_after_polishing(fitted, to_the_end, encoder, kind: str) -> None:
    spreads = []
    for generator in (fitted[kind, "weights"][0], to_the_end[kind][0]):
        drawn = generator.generate(asked_of(generator, encoder), rng=seeded(), num_samples=6)
        updates = torch.stack([deltas(generation.adapter) for generation in drawn])
        spreads.append(float(torch.pdist(updates).min() / updates.norm(dim=1).mean()))
    before, after = spreads
    assert before > 1e-3
    assert after > before / 4


def deltas(adapter: Adapter) -> Tensor:
    return torch.cat([adapter.delta_weight(site).flatten() for site in sorted(adapter.sites)])


@pytest.mark.parametrize("kind", KINDS)
def test_the_base_is_frozen(configs, zoo, encoder, root, monkeypatch, kind: str) -> None:
    opened = []
    real = Zoo.load_base
    monkeypatch.setattr(Zoo, "load_base", lambda zoo: opened.append(real(zoo)) or opened[-1])
    train(changed(configs[kind], polish={"epochs": 1, "judged_on": None}), zoo, encoder)
    (base,) = opened
    assert distance(base.model.state_dict(), Backbone.load(str(root / "base")).model.state_dict()) == 0
    assert not any(p.requires_grad or p.grad is not None for p in base.model.parameters())
    assert not base.model._forward_hooks


def test_batch_statistics_are_neither_changed_nor_used_by_the_training_on_tasks(fitted, to_the_end, materials, configs):
    before, after, alone = (state(g) for g, _ in (fitted["icm", "weights"], to_the_end["icm"], fitted["icm", "task"]))
    kept = [name for name in before if "running" in name or "num_batches" in name]
    assert len(kept) == 3 * 4
    for name in kept:
        assert torch.equal(before[name], after[name])
        assert torch.equal(alone[name], torch.full_like(alone[name], float(name.endswith("running_var"))))
    assert distance(before, after) > 1e-3, "the rest is trained"
    assert any(not torch.equal(before[name], alone[name]) for name in kept), "as training on weights changes them"
    maker = maker_of(fitted["icm", "weights"][0], materials["icm"])
    maker.coder.prior_scale = 0.0
    batch = episodes(materials["icm"], configs["icm"].on_tasks(), rng=seeded())[0]
    with torch.no_grad():
        assert torch.equal(maker.train()(batch), maker.eval()(batch))
        decoder = maker.coder.network.train().decoder
        assert decoder.training
        assert not any(module.training for module in decoder if isinstance(module, nn.BatchNorm1d))


@pytest.mark.parametrize("kind", KINDS)
def test_every_epoch_has_its_own_tasks_and_other_experts_than_those_before(
    configs, zoo, encoder, monkeypatch, kind: str
) -> None:
    seen: list[PolishBatch] = []
    real = PolishObjective.loss
    monkeypatch.setattr(PolishObjective, "loss", lambda self, batch: seen.append(batch) or real(self, batch))
    own = SGObjective if kind == "sg" else ICMObjective
    experts: list[Tensor] = []
    loss = own.loss
    monkeypatch.setattr(own, "loss", lambda self, batch: experts.append(batch.x) or loss(self, batch))
    train(changed(configs[kind], polish={"judged_on": None, "epochs": 2, "steps_per_epoch": 3}), zoo, encoder)
    assert len(seen) == 6
    assert len({tuple(map(tuple, batch.task.data.ids)) for batch in seen}) == 6
    assert {len(batch.task.data.ids) for batch in seen} == {16}
    assert len(experts) == 4 + 6
    assert {len(x) for x in experts} == {8}, "as many as in training on weights"
    assert len({tuple(x.flatten().tolist()) for x in experts}) == 10


@pytest.mark.parametrize("kind", KINDS)
def test_without_a_weight_the_own_loss_is_not_asked(configs, zoo, encoder, kind: str) -> None:
    light = {"judged_on": None, "epochs": 1, "reconstruction_weight": 0}
    _, history = train(changed(configs[kind], polish=light), zoo, encoder)
    assert history[-1].keys() == {"loss", "label_text", "contrast"}


# --- the epoch ------------------------------------------------------------------------------------------------------


def valued(monkeypatch: pytest.MonkeyPatch, *values: float) -> list[dict[str, Tensor]]:
    """Let the judge say these values, in turn; returns the networks it saw."""
    seen: list[dict[str, Tensor]] = []

    def worth(_judge: Judge, maker: PolishMaker) -> float:
        seen.append(copy.deepcopy(maker.coder.network.state_dict()))
        return values[len(seen) - 1]

    monkeypatch.setattr(Judge, "worth", worth)
    return seen


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("values", "best"), [((0.5, 0.4, 0.5, 0.2), 0), ((0.1, 0.4, 0.3, 0.4), 1), ((-0.3, -0.2, -0.1, 0.0), 3)]
)
def test_the_epoch_that_was_worth_most_is_kept(fitted, configs, zoo, encoder, monkeypatch, kind, values, best) -> None:
    seen = valued(monkeypatch, *values)
    generator, _ = train(changed(configs[kind], polish={"steps_per_epoch": 2}), zoo, encoder)
    assert len(seen) == 4
    assert distance(seen[0], seen[1]) > 1e-4
    assert distance(state(generator), rounded(seen[best], kind)) == 0
    assert (generator.manifest.polished.epochs, generator.manifest.polished.worth) == (best, values)
    if best == 0:
        assert distance(state(generator), state(fitted[kind, "weights"][0])) < 1e-5


@pytest.mark.parametrize("kind", KINDS)
def test_the_objective_task_begins_untrained(configs, zoo, encoder, monkeypatch, kind: str) -> None:
    seen = valued(monkeypatch, 0.1, 0.2)
    train(changed(configs[kind], objective="task", polish={"epochs": 1}), zoo, encoder)
    untrained, _ = plainly(changed(configs[kind], epochs=1, steps_per_epoch=1, learning_rate=1e-12), zoo, encoder)
    for name in (name for name in untrained if "running" not in name and "num_batches" not in name):
        torch.testing.assert_close(seen[0][name], untrained[name])
    assert distance(*seen) > 1e-3


@pytest.mark.parametrize("kind", KINDS)
def test_left_out_tasks_are_judged_by_what_is_generated_at_the_mean_of_the_prior(
    fitted, materials, configs, tasks, backbone, kind: str
) -> None:
    generator, _ = fitted[kind, "both"]
    polished = generator.manifest.polished
    assert len(polished.worth) == 4
    assert max(polished.worth) == polished.worth[polished.epochs]
    judge = Judge.of(tasks.split("validation"), configs[kind].on_tasks(), materials[kind], backbone)
    maker = maker_of(generator, materials[kind])
    maker.train()
    found = judge.worth(maker)
    assert judge.worth(maker) == found
    assert maker.training
    assert maker.coder.network.training
    assert found == pytest.approx(polished.worth[polished.epochs], abs=0.02 if kind == "icm" else 1e-4)


# --- runs -----------------------------------------------------------------------------------------------------------


class Interrupted(Exception):
    pass


@pytest.fixture(scope="module")
def uninterrupted(zoo, encoder) -> Callable[[Config], tuple[Trained, list[int]]]:
    """From a config to what its training gives, and the steps it told of."""
    known: dict[str, tuple[Trained, list[int]]] = {}

    def run(config: Config) -> tuple[Trained, list[int]]:
        if (key := config.to_yaml()) not in known:
            steps: list[int] = []
            known[key] = (train(config, zoo, encoder, on_step=steps.append), steps)
        return known[key]

    return run


@pytest.mark.parametrize(
    ("kind", "objective", "at"),
    [("sg", "both", 3), ("sg", "both", 22), ("sg", "task", 22), ("icm", "both", 8), ("icm", "both", 36)],
)
def test_an_interrupted_training_ends_where_an_uninterrupted_one_does(
    uninterrupted, configs, zoo, encoder, tmp_path, kind: str, objective: str, at: int
) -> None:
    asked = changed(configs[kind], objective=objective, **({"folds": 2} if kind == "icm" else {}))
    before = asked.steps - 30

    def stop(step: int) -> None:
        if step == at:
            raise Interrupted

    (whole, whole_history), first = uninterrupted(asked)
    assert first[-30:] == list(range(before + 1, asked.steps + 1)), "steps of all trainings"
    with pytest.raises(Interrupted):
        train(asked, zoo, encoder, checkpoints=tmp_path, on_step=stop)
    steps: list[int] = []
    resumed, history = train(asked, zoo, encoder, checkpoints=tmp_path, on_step=steps.append)
    begun, per_epoch = (before, 10) if at > before else (0, 2)
    whole_epochs = begun + (at - 1 - begun) // per_epoch * per_epoch
    assert steps == [step for step in first if step > whole_epochs]
    assert distance(state(resumed), state(whole)) < 1e-5
    assert len(history) == len(whole_history)
    for one, other in zip(history, whole_history, strict=True):
        assert one == pytest.approx(other, abs=1e-5)
    assert resumed.manifest.polished == whole.manifest.polished


@pytest.mark.parametrize("kind", KINDS)
def test_saved_and_loaded_it_makes_the_same_adapters(fitted, encoder, tmp_path, kind: str) -> None:
    generator, _ = fitted[kind, "both"]
    for name, content in generator.files().items():
        atomic_write(tmp_path / name, content)
    loaded = type(generator).load(tmp_path)
    assert loaded.manifest == generator.manifest
    assert loaded.manifest.polished.objective == "both"
    one, other = (g.generate(asked_of(g, encoder), rng=seeded(), num_samples=2) for g in (generator, loaded))
    for made, again in zip(one, other, strict=True):
        assert torch.equal(deltas(made.adapter), deltas(again.adapter))


def loragen(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    monkeypatch.setattr(sys, "argv", ["loragen", *map(str, arguments)])
    with pytest.raises(SystemExit) as end:
        cli.main()
    return int(end.value.code or 0)


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_is_told_its_objective_on_the_command_line(
    fitted, configs, zoo, encoder, tmp_path, monkeypatch, capsys, kind: str
) -> None:
    path, out = tmp_path / "train.yaml", tmp_path / "out"
    path.write_text(changed(configs[kind], objective="weights").to_yaml())
    assert loragen(monkeypatch, "train", path, "--objective", "both", "--set", f"out={out}", "--json") == 0
    said = json.loads(capsys.readouterr().out)
    assert said["losses"].keys() == {"loss", "label_text", "contrast", "reconstruction", "kl"}
    assert read_config(out / "run.yaml") == changed(configs[kind], out=out)
    generator = open_generator(str(out), zoo, encoder)
    assert distance(state(generator), state(fitted[kind, "both"][0])) < 1e-5
    assert generator.manifest.polished == fitted[kind, "both"][0].manifest.polished
    rows = json.loads((out / LOSSES).read_text())
    assert [row["step"] for row in rows] == list(range(1, 35))
    assert "label_text" in rows[4]
    assert "label_text" not in rows[3]
    assert (out / PLOT).exists()
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == [], "no state is left"


def test_the_final_losses_are_of_the_last_training_however_short_it_was(configs, tmp_path) -> None:
    short = {"judged_on": None, "epochs": 1, "steps_per_epoch": 1}
    asked = changed(configs["sg"], polish=short, epochs=10, out=tmp_path / "out")  # a tenth of 21 steps are two
    trained = train_generator(asked)
    rows = json.loads((tmp_path / "out" / LOSSES).read_text())
    assert trained.final == {name: pytest.approx(rows[-1][name], abs=1e-4) for name in rows[-1] if name != "step"}
    assert "label_text" in trained.final


def test_the_objective_is_the_same_as_an_override(configs, tmp_path) -> None:
    path = tmp_path / "train.yaml"
    path.write_text(configs["sg"].to_yaml())
    assert read_config(path, objective="task") == read_config(path, ["objective=task"])
    assert read_config(path, ["objective=weights"], objective="task").objective == "task"
    assert read_config(path).objective == "both"


def test_an_objective_that_a_generator_has_not_is_refused(root, configs, tmp_path, monkeypatch, capsys) -> None:
    path = tmp_path / "attention.yaml"
    values = {"zoo": root / "zoo", "encoder": "e", "tasks": root / "tasks.yaml", "out": tmp_path / "out"}
    path.write_text(AttentionTrainConfig(generator="attention", **values).to_yaml())
    assert loragen(monkeypatch, "train", path, "--objective", "both") == 2
    error = " ".join(capsys.readouterr().err.split())
    assert "--objective does not apply to 'attention'" in error
    assert "applies to sg, icm" in error
    path.write_text(configs["sg"].to_yaml())
    assert loragen(monkeypatch, "train", path, "--objective", "loss") == 2
    assert "objective" in capsys.readouterr().err
