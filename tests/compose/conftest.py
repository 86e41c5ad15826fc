"""A tiny encoder, random experts of it, and labelled texts, on which compositions are tested."""

import pytest
from compose_tools import DYNAMIC, QUICK, SITES, TEXTS, random_lora
from models import word_task, write_tiny_encoder

from loragen.bases.text_encoder import LabelTextEncoder
from loragen.compose.experts import Experts
from loragen.compose.making import compose_experts
from loragen.compose.registry import rows
from loragen.inference import Adapter


@pytest.fixture(scope="session")
def base(tmp_path_factory):
    folder = tmp_path_factory.mktemp("compose") / "base"
    return LabelTextEncoder.load(str(write_tiny_encoder(folder, seed=1)))


@pytest.fixture(scope="session")
def experts(base):
    """Three experts of ranks 3, 2 and 4; the last does not update all sites."""
    loras = [random_lora(base, 0), random_lora(base, 1, r=2), random_lora(base, 2, r=4, sites=SITES[1:])]
    return Experts.of(loras, ("first", "second", "third"))


@pytest.fixture(scope="session")
def examples(tmp_path_factory):
    """Labelled texts of three tasks, one for each expert."""
    folder = tmp_path_factory.mktemp("compose-tasks")
    pairs = (("soup", "tea"), ("bread", "cold"), ("warm", "tea"))
    return tuple(word_task(folder, f"task{n}", words=words, train=40).load_train() for n, words in enumerate(pairs))


@pytest.fixture(scope="session")
def ids(base):
    return base.tokenize(TEXTS, max_length=32)


@pytest.fixture(scope="session")
def adapters(base, experts):
    return [
        Adapter(lora, base.name, labels=("soup", "tea"), description=f"Task {n}")
        for n, lora in enumerate(experts.loras)
    ]


@pytest.fixture(scope="session")
def made(base, adapters, examples):
    """Each dynamic method, trained for a moment where it is trained."""
    found = {}
    for name in DYNAMIC:
        data = examples if rows()[name].needs == "examples" else None
        found[name] = compose_experts(adapters, method=name, data=data, settings=QUICK.get(name), base=base)
    return found
