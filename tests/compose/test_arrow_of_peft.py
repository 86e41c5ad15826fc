"""Arrow against PEFT's own, on experts of one rank whose leading singular values stand apart."""

import pytest
import torch
from compose_tools import SITES, TEXTS
from models import tiny_bert

from loragen.adapters.adapter import Lora
from loragen.compose.experts import Experts
from loragen.compose.methods.arrow import Arrow, arrow_gates, prototypes
from loragen.compose.switching import put_on, updates_of

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")


def apart(base, seed):
    """An expert whose first singular value is far above the others, so that PEFT's power iterations end at it."""
    rng = torch.Generator().manual_seed(seed)
    sizes = torch.tensor([1.0, 0.2, 0.1])
    return Lora.from_factors(
        {site: torch.linalg.qr(torch.randn(16, 3, generator=rng)).Q.T for site in SITES},
        {site: torch.linalg.qr(torch.randn(16, 3, generator=rng)).Q * sizes for site in SITES},
        base_model_name_or_path=base.name,
        task_type="FEATURE_EXTRACTION",
        scaling=1.5,
    )


@pytest.mark.parametrize(("top_k", "temperature"), [(1, 1.0), (2, 0.5), (3, 1.0)])
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_arrow_gives_what_pefts_gives(base, tmp_path, top_k, temperature):
    from peft import ArrowConfig, create_arrow_model

    loras = [apart(base, seed) for seed in range(3)]
    for number, lora in enumerate(loras):
        lora.save(tmp_path / str(number))
    model = tiny_bert(seed=1)
    theirs = create_arrow_model(
        model,
        [str(tmp_path / str(number)) for number in range(3)],
        ArrowConfig(top_k=top_k, router_temperature=temperature, rng_seed=0),
    ).eval()
    tokens = base.tokenizer(list(TEXTS), padding=True, return_tensors="pt")
    inputs = {name: tokens[name] for name in ("input_ids", "attention_mask")}
    experts = Experts.of(loras, "abc")
    gates = arrow_gates(experts, Arrow(top_k=top_k, temperature=temperature), prototypes(experts))
    with torch.no_grad():
        wanted = theirs(**inputs).last_hidden_state
        with put_on(base, updates_of(experts, gates)):
            found = base.model(**inputs).last_hidden_state
        bare = base.model(**inputs).last_hidden_state
    assert (wanted - bare).abs().max() > 0.05
    assert torch.allclose(found, wanted, atol=1e-4)
