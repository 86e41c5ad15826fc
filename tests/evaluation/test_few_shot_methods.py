import pytest
from evaluation_toys import changed, state

from loragen.errors import ConfigError
from loragen.evaluation.config import BASE, MULTITASK, ORACLE, EvaluateConfig
from loragen.evaluation.controls import RIGHT
from loragen.evaluation.evaluate import evaluate_cells
from loragen.evaluation.methods import adapter_of
from loragen.evaluation.scoring import Scorer
from loragen.evaluation.workspace import task_rng
from loragen.recipes.few_shot import fit_examples

# --- fitted to examples ---


FITTED = ("multi-task LoRA, 3 a class", "topk, 3 a class")


@pytest.fixture
def fitting(config, tmp_path) -> EvaluateConfig:
    few = {"shots": 3, "generators": ("topk",), "recipe": {"steps": 4, "learning_rate": 3e-2, "window": 2}}
    some = {"generators": ("topk",), "instructed": None, "with_controls": False, "unrelated": 0}
    return changed(config, out=tmp_path / "fitting", few_shot=few, **some)


def test_adapters_are_fitted_to_a_few_examples_of_each_class(fitting):
    workspace, cells = evaluate_cells(fitting)
    assert workspace.methods == (BASE, MULTITASK, "topk", *FITTED, ORACLE)
    assert workspace.rivals == ("topk", MULTITASK, FITTED[0])
    found = {cell.key: cell for cell in cells}
    for task in workspace.tasks:
        for row, begun in zip(FITTED, (MULTITASK, "topk"), strict=True):
            assert {seed for name, method, _, seed in found if (name, method) == (task.id, row)} == {3, 5}
            for seed in (3, 5):
                examples = task.load_train().few(3, rng=task_rng(task, f"examples {seed}"))
                assert sorted(examples.labels) == [0, 0, 0, 1, 1, 1]
                adapter = adapter_of(workspace, task, begun, task.description, seed)
                data = workspace.base.prepare(examples, max_length=64)
                wanted = fit_examples(adapter, data, workspace.base, fitting.few_shot.recipe)
                scores = workspace.base.score(Scorer(workspace).data(task), wanted)
                cell = found[task.id, row, RIGHT, seed]
                assert cell.scores.cross_entropy == pytest.approx(scores.cross_entropy, abs=1e-4)
            one, other = (found[task.id, row, RIGHT, seed].adapter for seed in (3, 5))
            assert one != other, "another seed draws other examples"


def test_what_is_fitted_must_be_evaluated(fitting):
    with pytest.raises(ValueError, match="'few_shot' names sg, not among 'generators'"):
        changed(fitting, few_shot={"generators": ("topk", "sg")})


def test_rows_of_another_fit_are_refused(fitting):
    few = fitting.few_shot
    evaluate_cells(changed(fitting, few_shot=None))
    evaluate_cells(fitting)
    kept = state(fitting.out)
    longer = few.model_copy(update={"recipe": few.recipe.model_copy(update={"steps": 5})})
    with pytest.raises(ConfigError, match=r"other settings, tasks or adapters .*topk, 3 a class"):
        evaluate_cells(changed(fitting, few_shot=longer.model_dump()))
    assert state(fitting.out) == kept
