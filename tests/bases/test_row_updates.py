"""A batch whose rows have adapters of their own gives what each adapter gives alone, to 1e-5."""

import pytest
import torch
from families import FAMILIES, write_base
from peft import PeftModel
from transformers import AutoModel

from loragen.adapters.adapter import Lora
from loragen.bases.open import open_base
from loragen.bases.row_updates import RowUpdates, stacked
from loragen.errors import AdapterError

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
TEXTS = ("a soup b", "bread and a rather long tea", "cold", "tea b soup a b", "b")


def adapter(base, family: str, seed: int, r: int = 2, skip: int = 0) -> Lora:
    rng = torch.Generator().manual_seed(seed)
    sites = list(base.sites(FAMILIES[family].target_modules).items())[skip:]
    return Lora.from_factors(
        {site: torch.randn(r, size[1], generator=rng) / 4 for site, size in sites},
        {site: torch.randn(size[0], r, generator=rng) / 4 for site, size in sites},
        base_model_name_or_path=base.name,
        task_type=base.task_type,
        scaling=0.7,
    )


@pytest.mark.parametrize("family", [name for name, one in FAMILIES.items() if one.objective == "label_text"])
def test_each_row_is_as_under_its_own_adapter(family, tmp_path) -> None:
    write_base(tmp_path, family)
    base = open_base(str(tmp_path), objective="label_text")
    adapters = [adapter(base, family, 0), None, adapter(base, family, 1, r=3), adapter(base, family, 2, skip=1)]
    adapters.append(adapters[0])
    ids = base.tokenize(TEXTS, max_length=20)
    with torch.no_grad(), base.adapted_rows(adapters):
        together = base.embed(ids)
    for row, (one, tokens) in enumerate(zip(adapters, ids, strict=True)):
        with torch.no_grad(), base.adapted(one):
            torch.testing.assert_close(together[row], base.embed([tokens])[0], rtol=1e-5, atol=1e-5)
    assert not torch.allclose(together[0], together[1], atol=1e-2)


def test_rows_are_as_peft_has_them(tmp_path) -> None:
    write_base(tmp_path, "bert")
    base = open_base(str(tmp_path), objective="label_text")
    made = [adapter(base, "bert", seed) for seed in range(2)]
    ids = base.tokenize(TEXTS[:1], max_length=20)
    with torch.no_grad(), base.adapted_rows(made):
        together = base.states([ids[0], ids[0]])
    for row, one in enumerate(made):
        one.save(tmp_path / f"adapter{row}")
        model = PeftModel.from_pretrained(AutoModel.from_pretrained(tmp_path), tmp_path / f"adapter{row}").eval()
        with torch.no_grad():
            wanted = model(input_ids=torch.tensor([list(ids[0])])).last_hidden_state.mean(1)[0]
        torch.testing.assert_close(together[row], wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("family", [name for name, one in FAMILIES.items() if one.objective == "causal_lm"])
def test_decoders_write_row_by_row_what_they_write_alone(family, tmp_path) -> None:
    write_base(tmp_path, family)
    base = open_base(str(tmp_path), objective="causal_lm")
    made = [adapter(base, family, 0), None, adapter(base, family, 1)]
    prompts = base.prompts(TEXTS[:3])
    with base.adapted_rows(made):
        together = base.continued(prompts, max_new_tokens=6)
    for row, one in enumerate(made):
        with base.adapted(one):
            assert base.continued([prompts[row]], max_new_tokens=6) == [together[row]]


def test_a_lower_rank_is_filled_up_with_zeros() -> None:
    one = {"x": (torch.ones(1, 3), torch.ones(2, 1))}
    other = {"x": (torch.ones(2, 3), torch.ones(2, 2)), "y": (torch.ones(1, 2), torch.ones(2, 1))}
    stacks = stacked([one, other])
    assert {site: (tuple(a.shape), tuple(b.shape)) for site, (a, b) in stacks.items()} == {
        "x": ((2, 2, 3), (2, 2, 2)),
        "y": ((2, 1, 2), (2, 2, 1)),
    }
    assert torch.equal(stacks["x"][1][0] @ stacks["x"][0][0], torch.ones(2, 3))
    assert not stacks["y"][0][0].any()


def test_rows_of_one_adapter_share_its_factors() -> None:
    one: dict = {"x": (torch.ones(1, 3), torch.ones(2, 1))}
    found = RowUpdates.of([one, {}, one])
    assert found.places.tolist() == [0, 1, 0]
    assert len(found.stacks["x"][0]) == 2


def test_an_adapter_of_another_base_is_refused(tmp_path) -> None:
    write_base(tmp_path, "bert")
    base = open_base(str(tmp_path), objective="label_text")
    strange = Lora.from_factors(
        {"no.such": torch.ones(1, 4)}, {"no.such": torch.ones(4, 1)}, base_model_name_or_path="x"
    )
    with pytest.raises(AdapterError, match=r"no\.such"), base.adapted_rows([strange]):
        pass
