"""A frozen base that scores and trains adapters, with any adapter switched in; here text encoders with label texts.

`bases` opens the other kinds, which override what is particular to text encoders: inputs, outputs, losses, readout.
"""

import re
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from loragen.adapter import Adapter
from loragen.embedding import quiet_loading, resolve_model, weights_hash
from loragen.errors import AdapterError, ConfigError, TaskError
from loragen.losses import LOGIT_SCALE, contrast_loss, label_text_loss
from loragen.taskdata import Input, Readout, TaskData

if TYPE_CHECKING:
    from loragen.tasks import Examples

Factors = Mapping[str, tuple[Tensor, Tensor]]
"""Site → (A of shape (r, in), scaling · B of shape (out, r))."""

DtypeName = Literal["float32", "bfloat16", "auto"]
DeviceName = Literal["cpu", "cuda", "mps", "auto"]
Pooling = Literal["mean", "last"]
ObjectiveName = Literal["label_text", "causal_lm", "seq2seq", "image_text"]
"""What a base is trained and scored by, and so the kind of base that it must be."""


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


def choose_device(name: DeviceName) -> torch.device:
    """Return the named device; ``auto`` takes an accelerator where torch finds one.

    Raises:
        ConfigError: this machine has no such device.
    """
    found = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if name == "auto":
        return torch.device(next((kind for kind in ("cuda", "mps") if found[kind]), "cpu"))
    if not found[name]:
        raise ConfigError(f"The device {name!r} was asked for, but torch finds none here; use cpu or auto.")
    return torch.device(name)


@dataclass(frozen=True)
class Backbone:
    """A frozen base and its tokenizer; this class is a text encoder, mean-pooled, with label texts for a head."""

    name: str
    model: nn.Module
    tokenizer: Any
    fingerprint: str
    """Hash of the weights file: the base an adapter was trained on is known by this."""
    objective: ClassVar[ObjectiveName] = "label_text"
    task_type: ClassVar[str | None] = "FEATURE_EXTRACTION"
    """PEFT's name for what adapters of this base are for."""
    model_class: ClassVar[str] = "AutoModel"

    @classmethod
    def load(cls, name: str, *, dtype: torch.dtype = torch.float32, device: DeviceName = "cpu") -> Self:
        """Load a base by its Hub name, a local path, or the name of the embedded MiniLM; no code of its own is run.

        Raises:
            ConfigError: there is no such model, or it is of another kind.
        """
        import transformers

        folder = resolve_model(name)
        kind = getattr(transformers, cls.model_class)
        with quiet_loading():
            try:
                model = kind.from_pretrained(folder, dtype=dtype, trust_remote_code=False)
            except ValueError as error:
                raise ConfigError(
                    f"{name} cannot be loaded as a base for {cls.objective!r} ({str(error).splitlines()[0]}); name a "
                    "model of that kind, or another `objective`."
                ) from error
            model = model.eval().requires_grad_(False).to(choose_device(device))
            return cls(name, model, cls._load_tokenizer(folder), weights_hash(folder))

    @staticmethod
    def _load_tokenizer(folder: Path) -> Any:
        from transformers import AutoTokenizer

        return AutoTokenizer.from_pretrained(folder)

    @property
    def device(self) -> torch.device:
        """Where the base computes."""
        return next(self.model.parameters()).device

    @property
    def body(self) -> nn.Module:
        """The part of the model that gives hidden states of a text."""
        return self.model

    # --- sites ---

    def sites(self, target_modules: Sequence[str] | str) -> dict[str, tuple[int, int]]:
        """Linear modules whose trailing dotted parts match a target, or whose whole name matches a regular expression.

        Returns site → (out, in).

        Raises:
            AdapterError: a target matches nothing.
        """
        linear = {name: size for name, module in self.model.named_modules() if (size := linear_size(module))}
        found: dict[str, tuple[int, int]] = {}
        is_pattern = isinstance(target_modules, str)
        for target in (target_modules,) if isinstance(target_modules, str) else target_modules:
            matches = {name: size for name, size in linear.items() if _is_target(name, target, is_pattern=is_pattern)}
            if not matches:
                names = ", ".join(sorted({name.rpartition(".")[2] for name in linear}))
                raise AdapterError(f"No linear module of {self.name} is called {target!r}; it has {names}.")
            found |= matches
        return {name: found[name] for name in linear if name in found}

    def stores_transposed(self, sites: Iterable[str]) -> bool:
        """Whether the weights at some sites are kept as (in, out), as GPT-2's are: PEFT's ``fan_in_fan_out``.

        Raises:
            AdapterError: some are and some are not, which one adapter cannot say.
        """
        kinds = {isinstance(self.model.get_submodule(site), nn.Linear) for site in sites}
        if len(kinds) > 1:
            raise AdapterError(
                f"Some weights of {self.name} at these sites are kept as (in, out) and others as (out, in), which one "
                "adapter cannot say; name target modules of one kind."
            )
        return kinds == {False}

    # --- inputs and outputs of a task ---

    def inputs(self, examples: "Examples", *, max_length: int) -> tuple[Input, ...]:
        """What the base reads of labelled examples."""
        return tuple(self.tokenize(examples.texts, examples.pairs, max_length=max_length))

    def outputs(self, texts: Sequence[str], *, max_length: int) -> tuple[Sequence[int], ...]:
        """Label texts as the base reads or predicts them."""
        return tuple(self.tokenize(texts, max_length=max_length))

    def open_ended(
        self, task: str, examples: "Examples", *, max_length: int
    ) -> tuple[tuple[Input, ...], tuple[Sequence[int], ...]]:
        """Inputs and outputs of examples without labels.

        Raises:
            TaskError: this kind of base can make nothing of these.
        """
        raise TaskError(
            f"Task {task!r} has no labels, and a text encoder learns from label texts; give it labels, or use a base "
            "with the objective 'causal_lm' or 'seq2seq'."
        )

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

    # --- embeddings ---

    def embed(self, ids: Sequence[Input]) -> Tensor:
        """Mean-pooled unit embeddings of one batch, float32 (n, hidden); differentiable in the factors in use."""
        return F.normalize(self.states(ids), dim=-1)

    def states(self, ids: Sequence[Input], *, pooling: Pooling = "mean") -> Tensor:
        """Last-layer hidden states of one batch, float32 (n, hidden): their mean over the tokens, or the last token's.

        Differentiable in the factors in use.
        """
        padded, lengths = padded_rows(tokens_of(ids), self.tokenizer.pad_token_id or 0)
        mask = torch.arange(padded.shape[1]) < lengths[:, None]
        device = self.device
        hidden: Tensor = self.body(input_ids=padded.to(device), attention_mask=mask.to(device)).last_hidden_state
        if pooling == "last":
            return hidden[torch.arange(len(ids)), lengths - 1].float()
        weights = mask.to(device, torch.float32)[..., None]
        return (hidden.float() * weights).sum(1) / weights.sum(1)

    def encode(self, ids: Sequence[Input], *, batch_size: int = 64) -> Tensor:
        """Unit embeddings of any number of inputs, in their order, on the CPU."""
        return F.normalize(self.encode_states(ids, batch_size=batch_size), dim=-1)

    @torch.inference_mode()
    def encode_states(self, ids: Sequence[Input], *, pooling: Pooling = "mean", batch_size: int = 64) -> Tensor:
        """`states` of any number of inputs, in their order, on the CPU; batches hold texts of like length."""
        if not ids:
            raise TaskError("There is no text to encode; at least one was wanted.")
        lengths = [0 if isinstance(row, Path) else len(row) for row in ids]
        order = sorted(range(len(ids)), key=lengths.__getitem__)
        batches = [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
        states = torch.cat([self.states([ids[i] for i in batch], pooling=pooling).cpu() for batch in batches])
        return states[torch.tensor(order).argsort()]

    # --- a task ---

    def losses(self, batch: TaskData, *, contrast_weight: float) -> dict[str, Tensor]:
        """Losses of a batch under the factors in use: ``loss``, which is minimised, and its parts by name.

        Here label-text cross-entropy and, where it has weight, supervised contrast among the texts.
        """
        texts, labels = self.embed(batch.ids), self.embed(batch.label_ids)
        targets = batch.targets.to(texts.device)  # the trainer moves factors and batches, but not the hidden base
        return self._with_contrast(
            {"label_text": label_text_loss(texts, labels, targets)}, texts, targets, contrast_weight
        )

    def _with_contrast(
        self, parts: dict[str, Tensor], texts: Tensor, targets: Tensor, weight: float
    ) -> dict[str, Tensor]:
        if not weight:
            return {"loss": sum(parts.values(), torch.zeros((), device=texts.device))} | parts
        contrast = contrast_loss(texts, targets)
        return {"loss": sum(parts.values()) + weight * contrast} | parts | {"contrast": contrast}

    @torch.inference_mode()
    def held_out_loss(self, data: TaskData, *, contrast_weight: float) -> float:
        """The same loss over all of ``data`` at once, under the factors in use."""
        texts, labels = self.encode(data.ids), self.encode(data.label_ids)
        targets = data.targets.cpu()
        loss = label_text_loss(texts, labels, targets)
        return float(loss + contrast_weight * contrast_loss(texts, targets)) if contrast_weight else float(loss)

    def read(self, data: TaskData) -> Readout:
        """Embeddings of the inputs and how well each class fits them, under the factors in use."""
        texts, labels = self.encode(data.ids), self.encode(data.label_ids)
        return Readout(texts, LOGIT_SCALE * texts @ labels.T, data.targets)

    # --- adapters ---

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
        size = linear_size(module)
        if size is None:
            raise AdapterError(
                f"The adapter targets {site!r}, which is a {type(module).__name__} in {self.name}; "
                "only linear modules can be adapted."
            )
        if size != (out_features, in_features):
            raise AdapterError(
                f"The adapter maps {in_features} to {out_features} features at {site!r}, but {self.name} maps "
                f"{size[1]} to {size[0]} there; it was made for another base model."
            )
        return module


def _add_low_rank(
    _module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor, *, lora_a: Tensor, lora_b: Tensor
) -> Tensor:
    x = inputs[0]
    return output + F.linear(F.linear(x, lora_a.to(x)), lora_b.to(x))  # in the dtype and on the device of x


def _is_target(name: str, target: str, *, is_pattern: bool) -> bool:
    if is_pattern:
        return re.fullmatch(target, name) is not None
    return name == target or name.endswith(f".{target}")


def linear_size(module: nn.Module) -> tuple[int, int] | None:
    """(out, in) of a linear module, whichever way round it keeps its weight; None for any other."""
    if isinstance(module, nn.Linear):
        return module.out_features, module.in_features
    if type(module).__name__ == "Conv1D" and isinstance(weight := getattr(module, "weight", None), Tensor):
        return weight.shape[1], weight.shape[0]  # transformers' own, (in, out)
    return None


def tokens_of(ids: Sequence[Input]) -> list[Sequence[int]]:
    """Inputs that must be texts."""
    if any(isinstance(row, Path) for row in ids):
        raise TaskError("An image was given to a base that reads texts; use a base with the objective 'image_text'.")
    return [row for row in ids if not isinstance(row, Path)]


def padded_rows(rows: Sequence[Sequence[int]], padding: int) -> tuple[Tensor, Tensor]:
    """Token ids padded on the right, (n, longest), and how many of each are its own, (n,)."""
    lengths = torch.tensor([len(row) for row in rows])
    padded = torch.full((len(rows), int(lengths.max())), padding)
    for row, tokens in zip(padded, rows, strict=True):
        row[: len(tokens)] = torch.tensor(tokens, dtype=torch.long)
    return padded, lengths
