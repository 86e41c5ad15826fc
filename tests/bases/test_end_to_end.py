"""Texts that are read end to end give what padded ones give: states, gradients, and states under adapters."""

import pytest
import torch
from families import FAMILIES, write_base
from hypothesis import given, settings
from hypothesis import strategies as st

from loragen.bases import end_to_end
from loragen.bases.end_to_end import Layout
from loragen.bases.open import open_base
from loragen.bases.text_encoder import LabelTextEncoder
from loragen.bases.tokenised import TaskData

TEXTS = ("a soup b", "bread and a rather long tea", "cold", "tea b soup a b", "b")
FLAT = ("bert", "roberta")


@pytest.fixture(params=FLAT)
def base(request, tmp_path) -> LabelTextEncoder:
    write_base(tmp_path, request.param)
    return open_base(str(tmp_path), objective="label_text")


def factors(base, seed: int) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    rng = torch.Generator().manual_seed(seed)
    sites = base.sites(("query", "value"))
    return {
        site: (torch.randn(2, into, generator=rng) / 4, (torch.randn(out, 2, generator=rng) / 4).requires_grad_())
        for site, (out, into) in sites.items()
    }


def test_the_families_that_can_be_read_so(tmp_path) -> None:
    can = set()
    for name, family in FAMILIES.items():
        if family.objective == "label_text":
            write_base(tmp_path / name, name)
            if end_to_end.can_read(open_base(str(tmp_path / name), objective="label_text").body):
                can.add(name)
    assert can == set(FLAT)


@pytest.mark.parametrize("pooling", ["mean", "last", "cls"])
def test_states_are_those_of_padded_texts(base, pooling) -> None:
    ids = base.tokenize(TEXTS, max_length=20)
    with torch.no_grad(), base.using(factors(base, 0)):
        met, wanted = base.states(ids, pooling=pooling), base._text_states(ids, pooling)
    torch.testing.assert_close(met, wanted, rtol=1e-5, atol=1e-5)


def test_gradients_are_those_of_padded_texts(base) -> None:
    ids = base.tokenize(TEXTS, max_length=20)
    weights = torch.randn(
        len(TEXTS), base._text_states(ids, "mean").shape[1], generator=torch.Generator().manual_seed(1)
    )
    found = []
    for states in (base.states, base._text_states):
        held = factors(base, 0)
        with base.using(held):
            (states(ids, pooling="mean") * weights).sum().backward()
        found.append([b.grad for _, b in held.values()])
    assert max(float(gradient.abs().max()) for gradient in found[1]) > 1e-3
    for met, wanted in zip(*found, strict=True):
        torch.testing.assert_close(met, wanted, rtol=1e-4, atol=1e-6)


def test_losses_in_one_pass_are_those_of_texts_and_labels_apart(base, monkeypatch) -> None:
    ids = tuple(base.tokenize(TEXTS, max_length=20))
    batch = TaskData(ids, torch.tensor([0, 1, 0, 1, 1]), tuple(base.tokenize(["soup", "a long tea"], max_length=20)))
    with torch.no_grad(), base.using(factors(base, 0)):
        met = base.losses(batch, contrast_weight=0.5)
        monkeypatch.setattr(end_to_end, "can_read", lambda _body: False)
        wanted = base.losses(batch, contrast_weight=0.5)
    for name, value in wanted.items():
        torch.testing.assert_close(met[name], value, rtol=1e-5, atol=1e-5)


class FirstToken:
    """An update that adds to a whole row what its first token gives."""

    def __init__(self, size: tuple[int, int]) -> None:
        self.out_features, self.in_features = size
        self.weight = torch.randn(*size, generator=torch.Generator().manual_seed(0)) / 4

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return (x[:, :1] @ self.weight.T).expand(-1, x.shape[1], -1)


def test_updates_that_are_functions_see_texts_as_rows(base) -> None:
    ids = base.tokenize(TEXTS, max_length=20)
    updates = {site: FirstToken(size) for site, size in base.sites(("query",)).items()}
    with torch.no_grad(), base.using(updates):
        together = base.states(ids)
        alone = torch.cat([base.states([row]) for row in ids])
    torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-5)
    assert end_to_end.can_read(base.body)


def test_the_model_is_as_before_afterwards_even_where_reading_fails(base) -> None:
    before = base.body.config._attn_implementation
    with pytest.raises(IndexError):
        base.states([[10**6]])
    assert base.body.config._attn_implementation == before
    assert end_to_end.layout_in_use() is None


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(1, 7), min_size=1, max_size=6), st.integers(1, 4))
def test_tokens_come_back_from_where_they_were_put(lengths, width) -> None:
    layout = Layout.of(lengths, torch.device("cpu"))
    values = torch.arange(sum(lengths) * width, dtype=torch.float32).view(-1, width) + 1
    padded = layout.apart(values)
    for row, part in zip(padded, values.split(lengths), strict=True):
        assert torch.equal(row[: len(part)], part)
        assert not row[len(part) :].any()
    assert torch.equal(layout.together(padded), values)
    assert torch.equal(layout.positions, torch.cat([torch.arange(n) for n in lengths]))
