"""Compositions as rows of an evaluation: of the nearest experts, or one from a folder."""

import pytest

from loragen.compose.composed import open_adapter
from loragen.compose.making import compose_experts
from loragen.conditions.text_encoder import TextEncoder
from loragen.errors import ConfigError
from loragen.evaluation.composed_rows import ComposedForTasks, ComposedRows
from loragen.evaluation.run_record import adapter_digest
from loragen.generation import ENCODER
from loragen.inference import Adapter
from loragen.zoo.zoo import SPLIT, Zoo


@pytest.fixture(scope="module")
def zoo():
    return Zoo.open()


def test_a_row_composes_the_experts_that_are_nearest(zoo, tmp_path):
    compose_experts(["clinc_meta", "clinc_banking"], method="arrow", zoo=zoo).adapter.save(tmp_path / "fixed")
    settings = ComposedRows(methods=("arrow",), top_k=2, folders={"two experts": tmp_path / "fixed"})
    assert settings.rows == ("arrow of 2", "two experts")
    rows = ComposedForTasks(settings, zoo, zoo.select(splits={SPLIT}), TextEncoder.load(ENCODER))
    near = rows.composition("arrow of 2", "Which question about a bank account or a bank card is this?")
    assert len(near.experts) == 2
    assert any("bank" in name for name in near.experts.names)
    fixed = rows.composition("two experts", "Anything.")
    assert fixed.experts.names == ("clinc_meta", "clinc_banking")
    digests = {adapter_digest(one, None) for one in (near, fixed, open_adapter(tmp_path / "fixed").switched)}
    assert len(digests) == 2
    assert rows.digest("two experts") == adapter_digest(fixed, None)


def test_rows_of_methods_that_want_texts_are_refused():
    for name in ("uniform", "smora"):
        with pytest.raises(ConfigError, match="static or wants labelled texts"):
            ComposedRows.checked({"methods": [name]}, source="here")
    with pytest.raises(ConfigError, match="no method 'x'"):
        ComposedRows.checked({"methods": ["x"]}, source="here")


def test_a_composition_of_another_base_is_refused(zoo, base, experts, tmp_path):
    adapters = [Adapter(lora, base.name) for lora in experts.loras]
    compose_experts(adapters, method="arrow").adapter.save(tmp_path / "other")
    settings = ComposedRows(methods=(), folders={"other": tmp_path / "other"})
    with pytest.raises(ConfigError, match="compose experts of this zoo"):
        ComposedForTasks(settings, zoo, zoo.select(splits={SPLIT}), TextEncoder.load(ENCODER))
