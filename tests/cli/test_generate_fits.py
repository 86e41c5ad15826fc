"""`loragen generate --fit`: the choice of its length and strength, and the best of several samples."""

import json

import command_line
import pytest
import torch

from loragen.tasks.examples import Examples

run = command_line.run


@pytest.fixture
def ask(toys, tmp_path):
    train = Examples.from_file(toys / "data" / "plates.train.jsonl")
    few = train.few(8, rng=torch.Generator().manual_seed(0))
    rows = [json.dumps({"text": text, "label": label}) for text, label in zip(few.texts, few.outputs, strict=True)]
    (tmp_path / "few.jsonl").write_text("\n".join(rows))
    where = ("--generator", "topk", "--zoo", toys / "zoo", "--encoder", toys / "base")
    return ("generate", "Is it bread or cold?", *where, "--examples", tmp_path / "few.jsonl")


def test_a_fit_to_eight_of_a_class_shows_what_it_costs_and_what_was_chosen(run, ask):
    result = run(*ask, "--fit", "--out", "fitted", "--json")
    assert result.status == 0, result.err
    (made,) = json.loads(result.out)
    assert made["choice"]["strength"] in (0, 0.5, 1)
    assert len(made["choice"]["trials"]) == 7
    assert len(made["choice"]["rivals"]) == 4
    assert "cross-validating the fit: 1 of 90" in result.err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--fit", "--best-of", 4), "'topk' draws nothing at random"),
        (("--best-of", 4), "add --fit"),
        (("--fit", "--samples", 3, "--best-of", 2), "The best 3 of 2 adapters were asked for"),
        (("--clip-rows", 2), "add --fit"),
        (("--fit", "--clip-rows", 0), "a number above 0 was wanted"),
        (("--fit", "--clip-rows", "nan"), "a number above 0 was wanted"),
    ],
)
def test_what_has_no_best_is_refused(run, ask, arguments, said):
    result = run(*ask, *arguments, "--out", "refused")
    assert result.status == 2
    assert said in result.err
