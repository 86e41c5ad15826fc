"""A small language model for `language.py`: a Llama with a byte-level tokenizer of its own, trained from nothing."""

import json
import math
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from loragen.bases.causal_lm import CausalLM
from loragen.bases.hub import quiet_loading
from loragen.bases.scores import LanguageScores
from loragen.errors import ConfigError
from loragen.files import atomic_folder, atomic_write
from loragen.tasks.examples import Examples
from loragen.training.objective import Objective
from loragen.training.schedule import Schedule

FACTS = "training.json"
SPECIAL = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>"}
Tokenizer = Any


@dataclass(frozen=True)
class BaseRecipe:
    """Size and training of the base."""

    vocabulary: int = 4096
    hidden: int = 384
    layers: int = 7
    heads: int = 6
    intermediate: int = 1024
    window: int = 128
    """Tokens that are read at once."""
    batch: int = 64
    """Windows of a step."""
    tokens: int = 20_000_000
    """Length of the training; as many passes over the texts as that takes."""
    learning_rate: float = 1.5e-3
    weight_decay: float = 0.1
    steps_per_checkpoint: int = 250
    held_out: float = 0.01
    """Share of the texts that the model is scored on in the end, and does not learn from."""
    seed: int = 0

    @property
    def steps(self) -> int:
        """Of training, in whole rounds of ``steps_per_checkpoint``."""
        steps = -(-self.tokens // (self.batch * self.window))
        return -(-steps // self.steps_per_checkpoint) * self.steps_per_checkpoint


@dataclass(frozen=True, eq=False)
class Windows:
    """Token ids (b, window), cut from texts that follow one another."""

    ids: Tensor

    def to(self, device: torch.device) -> "Windows":
        """The same windows on a device."""
        return Windows(self.ids.to(device))


class NextToken(Objective):
    """Mean surprise over the tokens of a window, but for its first."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def loss(self, batch: Windows) -> dict[str, Tensor]:
        """Cross-entropy in nats."""
        return {"loss": self.model(input_ids=batch.ids, labels=batch.ids).loss}


def train_base(
    texts: Sequence[str], recipe: BaseRecipe, out: Path, *, on_step: Callable[[int], None] | None = None
) -> dict[str, Any]:
    """Train a base on texts and write it as a folder that transformers opens; returns what is known of it.

    The weights are written in half precision, and scored as they are written.

    State is kept beside the folder; an interrupted run with the same recipe goes on from there.

    Raises:
        ConfigError: an unfinished run with another recipe or other texts lies there.
    """
    from loragen.training.lightning_fit import fit

    state = out.with_name(f".{out.name}.partial")
    _settle(state, recipe, texts)
    order = torch.randperm(len(texts), generator=torch.Generator().manual_seed(recipe.seed)).tolist()
    split = max(1, round(recipe.held_out * len(texts)))
    held_out, train = [texts[at] for at in order[:split]], [texts[at] for at in order[split:]]
    tokenizer = new_tokenizer(train, recipe, state / "tokenizer")
    windows = packed(tokenizer, train, recipe.window)
    model = new_model(recipe, tokenizer)
    history = fit(
        NextToken(model),
        lambda epoch: batches(windows, recipe, epoch),
        Schedule(
            recipe.steps // recipe.steps_per_checkpoint,
            recipe.steps_per_checkpoint,
            recipe.learning_rate,
            weight_decay=recipe.weight_decay,
        ),
        seed=recipe.seed,
        checkpoints=state / "steps",
        on_step=on_step,
    )
    model = model.cpu().half().float().eval()  # as it will be read again
    tail = [row["loss"] for row in history[-recipe.steps_per_checkpoint :]]
    facts = {
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "vocabulary": len(tokenizer),
        "texts": len(train),
        "tokens of the texts": windows.numel(),
        "bytes per token": round(sum(len(text.encode()) for text in train) / windows.numel(), 2),
        "tokens trained on": recipe.steps * recipe.batch * recipe.window,
        "perplexity of the last steps": round(math.exp(sum(tail) / len(tail)), 2),
        "held-out texts": len(held_out),
    } | _held_out_scores(CausalLM(str(out), model, tokenizer, ""), held_out, recipe)
    with atomic_folder(out) as folder, quiet_loading():
        model.half().save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        atomic_write(folder / FACTS, json.dumps({**facts, "recipe": asdict(recipe)}, indent=1) + "\n")
    shutil.rmtree(state)
    return facts


def new_model(recipe: BaseRecipe, tokenizer: Tokenizer) -> nn.Module:
    """A model with random weights."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=recipe.hidden,
        num_hidden_layers=recipe.layers,
        num_attention_heads=recipe.heads,
        num_key_value_heads=recipe.heads,
        intermediate_size=recipe.intermediate,
        max_position_embeddings=2 * recipe.window,
        tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        use_cache=False,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        return LlamaForCausalLM(config).train()


def packed(tokenizer: Tokenizer, texts: Sequence[str], window: int) -> Tensor:
    """Texts one after another, each with its beginning and end, cut into windows, (n, window); the rest is lost."""
    rows = tokenizer(list(texts), add_special_tokens=False, return_attention_mask=False, verbose=False)["input_ids"]
    first, last = tokenizer.bos_token_id, tokenizer.eos_token_id
    ids = torch.tensor([token for row in rows for token in (first, *row, last)])
    if len(ids) < window:
        raise ConfigError(f"The texts have {len(ids)} tokens, fewer than a window of {window}; give more texts.")
    return ids[: len(ids) // window * window].reshape(-1, window)


def new_tokenizer(texts: Sequence[str], recipe: BaseRecipe, folder: Path) -> Tokenizer:
    """Byte-level BPE learnt from the texts; a text begins with a token of its own, as Llama's do."""
    from tokenizers import Tokenizer as Fast
    from tokenizers import decoders, pre_tokenizers, processors
    from tokenizers.models import BPE
    from tokenizers.trainers import BpeTrainer
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    if folder.exists():
        return AutoTokenizer.from_pretrained(folder)
    fast = Fast(BPE())
    fast.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    fast.decoder = decoders.ByteLevel()
    trainer = BpeTrainer(
        vocab_size=recipe.vocabulary,
        special_tokens=list(SPECIAL.values()),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    fast.train_from_iterator(texts, trainer)
    begin = SPECIAL["bos_token"]
    fast.post_processor = processors.TemplateProcessing(
        single=f"{begin} $A", pair=f"{begin} $A $B", special_tokens=[(begin, fast.token_to_id(begin))]
    )
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=fast, model_max_length=2 * recipe.window, **SPECIAL)
    with atomic_folder(folder) as whole:
        tokenizer.save_pretrained(whole)
    return tokenizer


def batches(windows: Tensor, recipe: BaseRecipe, epoch: int) -> list[Windows]:
    """What the steps before one checkpoint read: every pass over the windows is in an order of its own."""
    size = recipe.batch * recipe.steps_per_checkpoint
    drawn = range(epoch * size, (epoch + 1) * size)
    passes = {at // len(windows) for at in drawn}
    orders = {
        number: torch.randperm(len(windows), generator=torch.Generator().manual_seed(recipe.seed * 1_000_003 + number))
        for number in passes
    }
    chosen = torch.stack([orders[at // len(windows)][at % len(windows)] for at in drawn])
    return [Windows(windows[at]) for at in torch.split(chosen, recipe.batch)]


def _settle(state: Path, recipe: BaseRecipe, texts: Sequence[str]) -> None:
    """Refuse to go on with what another run has begun."""
    settings = json.dumps({**asdict(recipe), "texts": len(texts), "bytes": sum(len(t.encode()) for t in texts)})
    path = state / "recipe.json"
    if path.exists() and path.read_text() != settings:
        raise ConfigError(
            f"{state} holds an unfinished run with another recipe or other texts; finish it with its own, or remove it."
        )
    atomic_write(path, settings)


def _held_out_scores(base: CausalLM, texts: Sequence[str], recipe: BaseRecipe) -> dict[str, float]:
    """Scores of held-out texts, each by itself, as domains are scored."""
    scores = base.score(base.prepare(Examples(tuple(texts)), max_length=recipe.window))
    assert isinstance(scores, LanguageScores)
    return {
        "held-out perplexity": round(scores.perplexity, 2),
        "held-out bits per byte": round(scores.bits_per_byte, 4),
    }
