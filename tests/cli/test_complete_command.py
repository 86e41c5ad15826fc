import json

import command_line
import pytest
from command_line import widest, write_adapter
from families import write_base

run = command_line.run


@pytest.fixture(scope="module")
def adapter(tmp_path_factory):
    base = write_base(tmp_path_factory.mktemp("complete") / "base", "llama")
    sites = ["model.layers.0.self_attn.q_proj", "model.layers.1.self_attn.o_proj"]
    return write_adapter(base.parent / "adapter", base, sites=sites, task_type="CAUSAL_LM")


def test_complete_shows_what_the_language_model_writes_with_the_adapter_and_without(run, adapter) -> None:
    rows = json.loads(run("complete", adapter, "a soup", "[/b] tea", "--max-tokens", 8, "--json").out)
    assert [row["prompt"] for row in rows] == ["a soup", "[/b] tea"]
    assert any(row["completion"] != row["base_completion"] for row in rows)
    shown = run("complete", adapter, "a soup", "[/b] tea", "--max-tokens", 8)
    assert shown.status == 0
    assert "bare base" in shown.out
    assert "[/b] tea" in shown.out
    assert widest(shown.out) <= 80


def test_complete_refuses_an_encoder_and_an_empty_prompt(run, adapter, tiny_zoo, toys) -> None:
    for arguments, message in (
        ((toys / "zoo" / "experts" / "cups", "tea"), "whose base writes no text; try it with `loragen classify`"),
        ((adapter, ""), "One of the prompts is empty"),
    ):
        result = run("complete", *arguments)
        assert result.status == 2
        assert message in result.err
