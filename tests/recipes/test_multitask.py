import pytest
import torch
from models import word_task

from loragen.bases.losses import label_text_loss
from loragen.recipes.expert import ExpertRecipe, Start
from loragen.recipes.multitask import MultitaskRecipe, train_multitask

RECIPE = ExpertRecipe(
    r=2, steps=40, batch_size=16, learning_rate=3e-2, max_length=32, held_out=40, choices=4, window=6, snapshots=6
)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def start(base):
    return Start.random(base.sites(RECIPE.target_modules), RECIPE.r, rng=seeded())


def equal(one, two):
    return one.keys() == two.keys() and all(torch.equal(one[site], two[site]) for site in one)


def loss_of(task, base, lora_A, lora_B):
    data = base.prepare(task.load_test(), max_length=32)
    with base.using({site: (lora_A[site], lora_B[site]) for site in lora_B}):
        texts, labels = base.encode(data.ids), base.encode(data.label_ids)
    return float(label_text_loss(texts, labels, data.targets))


MULTITASK = MultitaskRecipe(steps=12, learning_rate=3e-2, steps_per_checkpoint=4)


@pytest.fixture(scope="module")
def tasks(task, tmp_path_factory):
    return [task, word_task(tmp_path_factory.mktemp("tasks"), "meals", words=("bread", "soup"))]


def test_a_multitask_adapter_helps_every_task(tasks, base, start):
    longer = MULTITASK.model_copy(update={"steps": 40})
    trained, history = train_multitask(tasks, base, start, RECIPE, longer, train_a=True)
    assert len(history) == 40
    for task in tasks:
        assert loss_of(task, base, trained.lora_A, trained.lora_B) < 0.7 * loss_of(
            task, base, start.lora_A, start.lora_B
        )


@pytest.mark.parametrize("train_a", [False, True])
def test_a_moves_only_where_it_may(tasks, base, start, train_a):
    before = {site: a.clone() for site, a in start.lora_A.items()}
    trained, _ = train_multitask(tasks, base, start, RECIPE, MULTITASK, train_a=train_a)
    assert equal(trained.lora_A, start.lora_A) is not train_a
    assert equal(start.lora_A, before), "the start itself stays"


def test_a_resumed_multitask_adapter_is_the_uninterrupted_one(tasks, base, start, tmp_path):
    wanted, history = train_multitask(tasks, base, start, RECIPE, MULTITASK, train_a=True)

    def stop(step):
        if step == 9:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_multitask(tasks, base, start, RECIPE, MULTITASK, train_a=True, checkpoints=tmp_path, on_step=stop)
    seen = []
    resumed, resumed_history = train_multitask(
        tasks, base, start, RECIPE, MULTITASK, train_a=True, checkpoints=tmp_path, on_step=seen.append
    )
    assert seen == [9, 10, 11, 12]
    assert equal(resumed.lora_A, wanted.lora_A)
    assert equal(resumed.lora_B, wanted.lora_B)
    assert resumed_history == history
