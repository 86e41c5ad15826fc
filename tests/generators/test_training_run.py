import json
import shutil
import sys
from pathlib import Path

import pytest
from models import write_tiny_encoder

from loragen.bases.known import EMBEDDED_MODEL
from loragen.conditions.text_encoder import TextEncoder
from loragen.config import read_yaml
from loragen.errors import ConfigError, GeneratorError, MissingExtraError, ZooError
from loragen.generators.icm.episodes import ICMTrainConfig
from loragen.generators.icm.model import ICM, ICMConfig
from loragen.generators.registry import config_type, open_generator
from loragen.generators.sg.fit import SGTrainConfig
from loragen.generators.sg.model import SG, SGConfig
from loragen.generators.train import DESCRIPTIONS, LOSSES, PLOT, RUN, TrainingResult, read_config, train_generator
from loragen.generators.trained import TrainConfig
from loragen.plotting import loss_curves
from loragen.zoo.zoo import Zoo, default_zoo

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module", autouse=True)
def _runs_are_drawn():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("loragen.plotting.loss_curves", loss_curves)
        yield


@pytest.fixture(scope="module")
def config(tiny_zoo, tmp_path_factory) -> SGTrainConfig:
    return SGTrainConfig(
        generator="sg",
        zoo=tiny_zoo.root,
        encoder=EMBEDDED_MODEL,
        out=tmp_path_factory.mktemp("generators") / "sg",
        sg=SGConfig(top_k=2, components=5, latent_size=3, hidden_size=8),
        epochs=4,
        steps_per_epoch=5,
        batch_size=8,
    )


@pytest.fixture(scope="module")
def trained(config) -> TrainingResult:
    return train_generator(config)


@pytest.fixture
def elsewhere(config, tmp_path) -> SGTrainConfig:
    return changed(config, out=tmp_path / "sg")


@pytest.fixture(scope="module")
def icm(config, tmp_path_factory) -> ICMTrainConfig:
    """A run of three trainings, two of them without half of the tasks; four steps each."""
    return ICMTrainConfig(
        generator="icm",
        zoo=config.zoo,
        encoder=EMBEDDED_MODEL,
        out=tmp_path_factory.mktemp("generators") / "icm",
        icm=ICMConfig(evidence=("description",), channels=(4,), latent_size=3, components=5),
        reading_model=str(write_tiny_encoder(tmp_path_factory.mktemp("models") / "tiny")),
        folds=2,
        epochs=2,
        steps_per_epoch=2,
        batch_size=8,
    )


@pytest.fixture(scope="module")
def trained_icm(icm) -> TrainingResult:
    return train_generator(icm)


def changed(config: TrainConfig, **values) -> TrainConfig:
    return type(config).model_validate(config.model_dump() | values)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def unfinished(config: TrainConfig, at: int = 13) -> None:
    """Leave a run that was interrupted at a step."""

    def stop(step: int) -> None:
        if step == at:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_generator(config, on_step=stop)


# --- a run ----------------------------------------------------------------------------------------------------------


def test_a_run_leaves_a_generator_its_config_and_its_losses(trained, config, tiny_zoo):
    files = {"generator.yaml", "generator.safetensors", "frame.safetensors", RUN, LOSSES, PLOT, ".loragen.json"}
    files |= {DESCRIPTIONS}
    assert contents(config.out).keys() == files
    assert [path.name for path in config.out.parent.iterdir()] == ["sg"], "no state is left"
    assert SGTrainConfig.from_yaml(config.out / RUN) == config
    generator = SG.load(config.out)
    assert generator.manifest.zoo_hash == tiny_zoo.select(splits={"experts"}).fingerprint
    assert (config.out / PLOT).read_bytes().startswith(b"\x89PNG")


def test_the_losses_are_those_of_the_run(trained, config, tiny_zoo):
    rows = json.loads((config.out / LOSSES).read_text())
    assert [row["step"] for row in rows] == list(range(1, 21))
    assert rows[0].keys() == {"step", "loss", "reconstruction", "kl"}
    tail = rows[-2:]
    assert trained.final == {
        name: pytest.approx(sum(row[name] for row in tail) / 2, abs=1e-4) for name in ("loss", "reconstruction", "kl")
    }
    assert trained.experts == tiny_zoo.select(splits={"experts"}).ids
    assert trained.plot == config.out / PLOT


def test_what_was_trained_opens_as_a_generator_of_its_zoo(trained, config, tiny_zoo):
    assert isinstance(open_generator(str(config.out), tiny_zoo, TextEncoder.load()), SG)


def test_a_long_run_is_thinned_to_means_that_keep_the_whole(elsewhere):
    train_generator(changed(elsewhere, epochs=2, steps_per_epoch=205))
    rows = json.loads((elsewhere.out / LOSSES).read_text())
    assert len(rows) <= 200
    assert rows[-1]["step"] == 410
    assert [row["step"] for row in rows] == sorted({row["step"] for row in rows})


def test_training_again_replaces_the_generator_with_an_equal_one(trained, config):
    before = contents(config.out)
    (config.out / "losses.png").write_bytes(b"of another run")
    train_generator(config, force=True)
    assert contents(config.out) == before


# --- what lies there already ----------------------------------------------------------------------------------------


def test_a_generator_is_replaced_by_force_alone(trained, config):
    before = contents(config.out)
    with pytest.raises(ConfigError, match=r"replace .*sg, a generator that was trained before; .*--set out=.*--force"):
        train_generator(changed(config, epochs=1))
    assert contents(config.out) == before
    assert [path.name for path in config.out.parent.iterdir()] == ["sg"], "no state either"


def test_a_generator_of_the_bundled_zoo_is_named_as_such(config, monkeypatch, tmp_path):
    monkeypatch.chdir(default_zoo())
    with pytest.raises(ConfigError, match=r"replace generators/sg, a generator of the bundled zoo; .*or replace it"):
        train_generator(changed(config, out=Path("generators/sg")))


@pytest.mark.parametrize("force", [False, True])
def test_what_is_no_generator_is_never_replaced(elsewhere, force):
    elsewhere.out.mkdir()
    (elsewhere.out / "thesis.tex").write_text("years of work")
    with pytest.raises(ConfigError, match=r"which is there and holds no generator; write elsewhere"):
        train_generator(elsewhere, force=force)
    assert contents(elsewhere.out) == {"thesis.tex": b"years of work"}


# --- interruptions --------------------------------------------------------------------------------------------------


def test_an_interrupted_run_ends_in_the_same_bytes(trained, config, elsewhere):
    unfinished(elsewhere)
    assert not elsewhere.out.exists(), "a generator is whole or not there"
    steps = []
    train_generator(elsewhere, on_step=steps.append)
    assert steps == list(range(11, 21)), "from the last whole epoch on"
    met, wanted = contents(elsewhere.out), contents(config.out)
    assert met.pop(RUN) != wanted.pop(RUN), "which names its own folder"
    assert met == wanted
    assert [path.name for path in elsewhere.out.parent.iterdir()] == ["sg"]


def test_an_unfinished_run_with_other_settings_is_refused_and_kept(elsewhere):
    unfinished(elsewhere)
    state = elsewhere.out.with_name(".sg.unfinished")
    before = contents(state)
    with pytest.raises(GeneratorError, match=r"\.sg\.unfinished holds an unfinished run with other settings"):
        train_generator(changed(elsewhere, learning_rate=1e-4))
    assert contents(state) == before
    steps = []
    train_generator(elsewhere, on_step=steps.append)
    assert steps[0] == 11


def test_a_finished_run_leaves_the_state_of_its_neighbours(elsewhere):
    unfinished(changed(elsewhere, out=elsewhere.out.with_name("sg.baseline")))
    before = contents(elsewhere.out.with_name(".sg.baseline.unfinished"))
    assert before
    train_generator(elsewhere)
    assert contents(elsewhere.out.with_name(".sg.baseline.unfinished")) == before


def test_the_state_of_a_run_that_was_killed_after_its_end_is_cleared_away(elsewhere):
    unfinished(elsewhere)
    state = elsewhere.out.with_name(".sg.unfinished")
    shutil.copytree(state, elsewhere.out.with_name("kept"))
    train_generator(elsewhere)
    elsewhere.out.with_name("kept").rename(state)
    with pytest.raises(ConfigError, match="would replace"):
        train_generator(elsewhere)
    assert not state.exists()


def test_an_unfinished_run_on_other_experts_is_refused(elsewhere, tiny_zoo, tmp_path):
    asked = changed(elsewhere, zoo=shutil.copytree(tiny_zoo.root, tmp_path / "zoo"))
    unfinished(asked)
    shutil.rmtree(tmp_path / "zoo" / "experts" / "rain")
    with pytest.raises(GeneratorError, match="other settings or experts"):
        train_generator(asked)


def test_a_run_that_never_began_is_in_nobodys_way(elsewhere):
    with pytest.raises(ConfigError, match="no-such-encoder"):
        train_generator(changed(elsewhere, encoder="no-such-encoder"))
    unfinished(elsewhere, at=1)  # before any state was kept
    train_generator(changed(elsewhere, epochs=1))
    assert SG.load(elsewhere.out).manifest.experts


# --- a run with left-out tasks --------------------------------------------------------------------------------------


def test_a_run_of_icm_leaves_an_icm_whose_length_left_out_tasks_chose(trained_icm, icm):
    assert [path.name for path in icm.out.parent.iterdir()] == ["icm"], "no state of any fold is left"
    generator = ICM.load(icm.out)
    assert len(generator.manifest.left_out) == 2
    rows = json.loads((icm.out / LOSSES).read_text())
    assert [row["step"] for row in rows] == list(range(1, 1 + 2 * generator.manifest.epochs))
    assert read_config(icm.out / RUN) == icm


@pytest.mark.parametrize("at", [3, 7, 10])
def test_an_interrupted_run_with_left_out_tasks_ends_in_the_same_bytes(trained_icm, icm, tmp_path, at):
    elsewhere = changed(icm, out=tmp_path / "icm")
    unfinished(elsewhere, at=at)
    with pytest.raises(GeneratorError, match=r"\.icm\.unfinished holds an unfinished run with other settings"):
        train_generator(changed(elsewhere, folds=3))
    steps = []
    train_generator(elsewhere, on_step=steps.append)
    assert steps[0] == 1 + (at - 1) // 2 * 2
    met, wanted = contents(elsewhere.out), contents(icm.out)
    assert met.pop(RUN) != wanted.pop(RUN)
    assert met == wanted


# --- configs --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"objective": "weights"}, "unknown key objective: training on task loss was removed"),
        ({"objective": "weights", "polish": {"epochs": 5}}, r"unknown key objective and polish: .*search-2026-11"),
        ({"objective": "weights", "epoch": 3}, "objective"),
    ],
)
@pytest.mark.parametrize("kind", ["config", "icm"])
def test_a_config_of_a_training_that_was_removed_says_so(request, tmp_path, kind, values, named):
    path = tmp_path / "train.yaml"
    path.write_text(json.dumps(json.loads(request.getfixturevalue(kind).model_dump_json()) | values))
    with pytest.raises(ConfigError, match=named):
        read_config(path)


@pytest.mark.parametrize("kind", ["sg", "icm"])
def test_the_runs_of_the_shipped_generators_are_of_that_training(kind):
    """Their files are as they were written; but for two keys they are configs of today."""
    path = default_zoo() / "generators" / kind / RUN
    with pytest.raises(ConfigError, match="unknown key objective and polish: training on task loss was removed"):
        read_config(path)
    values = {key: value for key, value in read_yaml(path).items() if key not in ("objective", "polish")}
    asked = config_type(kind, path).checked(values, source=str(path))
    shipped = config_type(kind, path).from_yaml(ROOT / "configs" / "train" / f"{kind}.yaml")
    assert asked.model_dump(exclude={"tasks"}) == shipped.model_dump(exclude={"tasks"})


# --- what can be missing --------------------------------------------------------------------------------------------


def test_without_matplotlib_there_is_no_plot_and_no_failure(trained, config, elsewhere, monkeypatch):
    for name in [name for name in sys.modules if name.partition(".")[0] == "matplotlib" or name == "loragen.plotting"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'loragen\[plot\]'"):
        __import__("loragen.plotting")
    assert train_generator(elsewhere).plot is None
    assert contents(elsewhere.out).keys() == contents(config.out).keys() - {PLOT}


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"generator": "gs"}, "generator"),
        ({"epoch": 3}, "epoch"),
        ({"sg": {"top_k": 0}}, r"sg\.top_k"),
        ({"learning_rate": -1}, "learning_rate"),
    ],
)
def test_a_config_that_does_not_fit_is_named(config, tmp_path, values, named):
    path = tmp_path / "sg.yaml"
    path.write_text(json.dumps(json.loads(config.model_dump_json()) | values))
    with pytest.raises(ConfigError, match=named):
        SGTrainConfig.from_yaml(path)


def test_a_config_says_which_generator_it_trains(config, icm, tmp_path):
    path = tmp_path / "train.yaml"
    for wanted in (config, icm):
        path.write_text(wanted.to_yaml())
        assert read_config(path) == wanted
        assert read_config(path, ["epochs=7", "out=there"]) == changed(wanted, epochs=7, out=Path("there"))


@pytest.mark.parametrize("first_line", ["generator: oracle", "generator: [sg]", "epochs: 3"])
def test_an_unknown_generator_is_named_with_the_known_ones(config, tmp_path, first_line):
    path = tmp_path / "train.yaml"
    path.write_text(config.to_yaml().replace("generator: sg", first_line).replace("epochs: 4\n", ""))
    with pytest.raises(ConfigError, match=r"train\.yaml trains the generator .*; generators that are trained: sg, icm"):
        read_config(path)


def test_a_missing_zoo_or_split_leaves_nothing(elsewhere, tmp_path):
    with pytest.raises(ZooError, match="no zoo"):
        train_generator(changed(elsewhere, zoo=tmp_path / "nowhere"))
    with pytest.raises(ZooError, match="test_near"):
        train_generator(changed(elsewhere, splits=("test_near",)))
    assert not list(tmp_path.iterdir())


def test_splits_say_whom_to_learn_from(elsewhere, tiny_zoo):
    whole = train_generator(changed(elsewhere, splits=("experts", "validation"), epochs=1))
    assert whole.experts == tiny_zoo.ids == SG.load(elsewhere.out).manifest.experts
    assert Zoo.open(elsewhere.zoo).ids == tiny_zoo.ids
