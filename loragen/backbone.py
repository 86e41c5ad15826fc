"""A frozen text-encoder base that scores and trains adapters: pooled unit embeddings, with any adapter switched in."""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from loragen.adapter import Adapter
from loragen.embedding import quiet_loading, resolve_model, weights_hash
from loragen.errors import AdapterError, TaskError

LOGIT_SCALE = 20.0
"""Cosine similarities are multiplied by this before a softmax, as sentence-transformers' ranking losses do."""

Factors = Mapping[str, tuple[Tensor, Tensor]]
"""Site → (A of shape (r, in), scaling · B of shape (out, r))."""

DtypeName = Literal["float32", "bfloat16", "auto"]
Pooling = Literal["mean", "last"]


def choose_dtype(name: DtypeName) -> torch.dtype:
    """Return the named dtype; ``auto`` times one product of MiniLM's shape in both and takes the faster.

    Processors with bfloat16 tiles run bfloat16 two to three times faster than float32, others run it at half the speed.
    """
    if name != "auto":
        return {"float32": torch.float32, "bfloat16": torch.bfloat16}[name]

    def seconds(dtype: torch.dtype) -> float:
        x, w = torch.ones(1024, 384, dtype=dtype), torch.ones(1536, 384, dtype=dtype)
        best = float("inf")
        for _ in range(5):
            start = time.perf_counter()
            F.linear(x, w)
            best = min(best, time.perf_counter() - start)
        return best

    return torch.bfloat16 if seconds(torch.bfloat16) < seconds(torch.float32) else torch.float32


@dataclass(frozen=True)
class Backbone:
    """A base text encoder, frozen, mean-pooled, and its tokenizer."""

    name: str
    model: nn.Module
    tokenizer: Any
    fingerprint: str
    """Hash of the weights file: the base an adapter was trained on is known by this."""

    @classmethod
    def load(cls, name: str, *, dtype: torch.dtype = torch.float32) -> Self:
        """Load a base by its Hub name, a local path, or the name of the embedded MiniLM."""
        from transformers import AutoModel, AutoTokenizer

        folder = resolve_model(name)
        with quiet_loading():
            model = AutoModel.from_pretrained(folder, dtype=dtype).eval().requires_grad_(False)
            tokenizer = AutoTokenizer.from_pretrained(folder)
        return cls(name, model, tokenizer, weights_hash(folder))

    def sites(self, target_modules: Sequence[str]) -> dict[str, tuple[int, int]]:
        """Linear modules whose trailing dotted parts match a target, as site → (out, in).

        Raises:
            AdapterError: a target matches nothing.
        """
        found: dict[str, tuple[int, int]] = {}
        for target in target_modules:
            matches = {
                name: (module.out_features, module.in_features)
                for name, module in self.model.named_modules()
                if isinstance(module, nn.Linear) and (name == target or name.endswith(f".{target}"))
            }
            if not matches:
                linear = sorted(
                    {n.rpartition(".")[2] for n, m in self.model.named_modules() if isinstance(m, nn.Linear)}
                )
                raise AdapterError(f"No linear module of {self.name} is called {target!r}; it has {', '.join(linear)}.")
            found |= matches
        return {name: found[name] for name, _ in self.model.named_modules() if name in found}

    def tokenize(self, texts: Sequence[str], pairs: Sequence[str] | None = None, *, max_length: int) -> list[list[int]]:
        """Token ids of each text; a pair is joined by the separator, and the longer half is cut first.

        A tokenizer without a separator, as causal models have, joins a pair by a line break.
        """
        if pairs is not None and self.tokenizer.sep_token_id is None:
            pairs = [f"\n{pair}" for pair in pairs]
        encoded = self.tokenizer(
            list(texts),
            list(pairs) if pairs is not None else None,
            truncation="longest_first",
            max_length=max_length,
            return_attention_mask=False,
            return_token_type_ids=False,
        )
        ids: list[list[int]] = encoded["input_ids"]
        return ids

    def embed(self, ids: Sequence[Sequence[int]]) -> Tensor:
        """Mean-pooled unit embeddings of one batch, float32 (n, hidden); differentiable in the factors in use."""
        return F.normalize(self.states(ids), dim=-1)

    def states(self, ids: Sequence[Sequence[int]], *, pooling: Pooling = "mean") -> Tensor:
        """Last-layer hidden states of one batch, float32 (n, hidden): their mean over the tokens, or the last token's.

        Differentiable in the factors in use.
        """
        lengths = torch.tensor([len(row) for row in ids])
        padded = torch.full((len(ids), int(lengths.max())), self.tokenizer.pad_token_id or 0)
        for row, tokens in zip(padded, ids, strict=True):
            row[: len(tokens)] = torch.tensor(tokens)
        mask = torch.arange(padded.shape[1]) < lengths[:, None]
        device = next(self.model.parameters()).device
        hidden: Tensor = self.model(input_ids=padded.to(device), attention_mask=mask.to(device)).last_hidden_state
        if pooling == "last":
            return hidden[torch.arange(len(ids)), lengths - 1].float()
        weights = mask.to(device, torch.float32)[..., None]
        return (hidden.float() * weights).sum(1) / weights.sum(1)

    def encode(self, ids: Sequence[Sequence[int]], *, batch_size: int = 64) -> Tensor:
        """Unit embeddings of any number of tokenised texts, in their order."""
        return F.normalize(self.encode_states(ids, batch_size=batch_size), dim=-1)

    @torch.inference_mode()
    def encode_states(self, ids: Sequence[Sequence[int]], *, pooling: Pooling = "mean", batch_size: int = 64) -> Tensor:
        """`states` of any number of tokenised texts, in their order; batches hold texts of like length."""
        if not ids:
            raise TaskError("There is no text to encode; at least one was wanted.")
        order = sorted(range(len(ids)), key=lambda i: len(ids[i]))
        batches = [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
        states = torch.cat([self.states([ids[i] for i in batch], pooling=pooling) for batch in batches])
        return states[torch.tensor(order).argsort()]

    @contextmanager
    def using(self, factors: Factors) -> Iterator[None]:
        """Add scaling · B · A to the given sites while the block runs.

        Raises:
            AdapterError: the base has no such site, or one of another shape.
        """
        handles = []
        try:
            for site, (lora_a, lora_b) in factors.items():
                module = self._site(site, lora_b.shape[0], lora_a.shape[1])
                handles.append(module.register_forward_hook(partial(_add_low_rank, lora_a=lora_a, lora_b=lora_b)))
            yield
        finally:
            for handle in handles:
                handle.remove()

    @contextmanager
    def adapted(self, adapter: Adapter | None) -> Iterator[None]:
        """Switch an adapter in while the block runs; ``None`` leaves the base as it is."""
        factors = {} if adapter is None else {site: adapter.scaled_factors(site) for site in adapter.sites}
        with self.using(factors):
            yield

    def _site(self, site: str, out_features: int, in_features: int) -> nn.Module:
        try:
            module = self.model.get_submodule(site)
        except AttributeError:
            raise AdapterError(
                f"The adapter targets {site!r}, which {self.name} does not have; it was made for another base model."
            ) from None
        if not isinstance(module, nn.Linear):
            raise AdapterError(
                f"The adapter targets {site!r}, which is a {type(module).__name__} in {self.name}; "
                "only linear modules can be adapted."
            )
        if (module.out_features, module.in_features) != (out_features, in_features):
            raise AdapterError(
                f"The adapter maps {in_features} to {out_features} features at {site!r}, but {self.name} maps "
                f"{module.in_features} to {module.out_features} there; it was made for another base model."
            )
        return module


def _add_low_rank(
    _module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor, *, lora_a: Tensor, lora_b: Tensor
) -> Tensor:
    x = inputs[0]
    return output + F.linear(F.linear(x, lora_a.to(x)), lora_b.to(x))  # in the dtype and on the device of x


def label_text_loss(texts: Tensor, labels: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy of 20 · cosine between texts (n, d) and label texts (c, d), both unit; targets (n,)."""
    return F.cross_entropy(LOGIT_SCALE * texts @ labels.T, targets)


def contrast_loss(texts: Tensor, targets: Tensor) -> Tensor:
    """Supervised contrast among the texts of a batch (Khosla et al. 2020, L_out), at temperature 1 / 20.

    Texts without a second example of their class in the batch do not count; a batch of such texts alone gives zero.
    """
    n = len(texts)
    itself = torch.eye(n, dtype=torch.bool, device=texts.device)
    log_p = F.log_softmax((LOGIT_SCALE * texts @ texts.T).masked_fill(itself, float("-inf")), dim=1)
    positive = (targets[:, None] == targets[None, :]) & ~itself
    counts = positive.sum(1)
    losses = -log_p.masked_fill(~positive, 0.0).sum(1)[counts > 0] / counts[counts > 0]
    return losses.mean() if len(losses) else texts.sum() * 0.0
