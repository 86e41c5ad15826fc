"""Frame and start of a zoo: at random, by training on all tasks, or from another zoo."""

import json

import pytest
import torch
from builds import WEIGHTS, Step, changed, recorded
from safetensors.torch import load_file

from loragen.errors import ZooError
from loragen.zoo.build import build_zoo
from loragen.zoo.card import MULTITASK_FOLDER
from loragen.zoo.start import START, read_start
from loragen.zoo.zoo import Zoo

pytest_plugins = ("build_fixtures",)


@pytest.mark.parametrize(("frame", "start"), [("random", "multitask"), ("multitask", "zero"), ("multitask",) * 2])
def test_experts_begin_at_the_multitask_adapter_where_it_is_asked_for(fresh, zoo_config, built, frame, start):
    still = fresh.recipe.model_copy(update={"learning_rate": 1e-12})  # so an expert shows where it began
    reports = []
    settings = changed(fresh, frame=frame, start=start, recipe=still.model_dump(), only=("weather",))
    build_zoo(settings, progress=recorded(reports))
    assert [step for step in reports if step[0] != "experts"] == [("multi-task steps", at, 4) for at in (1, 2, 3, 4)]
    zoo = Zoo.open(fresh.out)
    multitask, expert = zoo.multitask(), zoo.adapter("weather")
    losses = json.loads((fresh.out / MULTITASK_FOLDER / "losses.json").read_text())
    assert len(losses) == 4
    assert multitask.norm() > 0
    random = read_start(zoo_config.out)
    for site in expert.sites:
        assert torch.equal(multitask.lora_A[site], random.lora_A[site]) is (frame == "random")
        assert torch.equal(expert.lora_A[site].float(), random.lora_A[site]) is (frame == "random")
        wanted = multitask.delta_weight(site) * (start == "multitask")
        torch.testing.assert_close(expert.delta_weight(site), wanted, rtol=0, atol=0.02 * multitask.norm())
    assert {path.name for path in fresh.out.rglob(".*")} <= {".loragen.json"}


def test_an_interrupted_multitask_adapter_is_taken_up_where_it_was(fresh, tmp_path):
    asked = changed(fresh, frame="multitask", start="multitask", only=("weather",))
    build_zoo(changed(asked, out=tmp_path / "whole"))

    def stop(_stage: str, done: int, _total: int) -> None:
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build_zoo(asked, progress=stop)
    assert not (fresh.out / MULTITASK_FOLDER).exists()
    reports: list[Step] = []
    build_zoo(asked, progress=recorded(reports))
    assert [p[1] for p in reports if p[0] == "multi-task steps"] == [3, 4]
    # Not to the byte: on some processors two runs of one training already differ in their last digit.
    for name in (START, f"{MULTITASK_FOLDER}/{WEIGHTS}", f"experts/weather/{WEIGHTS}"):
        torch.testing.assert_close(load_file(fresh.out / name), load_file(tmp_path / "whole" / name), rtol=0, atol=1e-5)
    taken_up, whole = (
        json.loads((out / MULTITASK_FOLDER / "losses.json").read_text()) for out in (fresh.out, tmp_path / "whole")
    )
    assert taken_up == [pytest.approx(row, abs=1e-5) for row in whole]


def test_frame_and_start_can_be_another_zoos(built, zoo_config, fresh, tmp_path):
    build_zoo(
        changed(fresh, start_of=zoo_config.out, only=("drinks",), recipe=zoo_config.recipe.model_dump() | {"seed": 7})
    )
    assert (fresh.out / START).read_bytes() == (zoo_config.out / START).read_bytes()
    with pytest.raises(ZooError, match=r"start_of.*nowhere.*start\.safetensors"):
        build_zoo(changed(fresh, out=tmp_path / "third", start_of=tmp_path / "nowhere"))


# --- folds ----------------------------------------------------------------------------------------------------------
