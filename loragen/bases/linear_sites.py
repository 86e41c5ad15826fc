"""Linear modules of a model, by their names, and low-rank updates that are added to their outputs for a while."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from typing import Protocol

import torch.nn.functional as F
from torch import Tensor, nn

from loragen.errors import AdapterError
from loragen.patterns import matches

Factors = Mapping[str, tuple[Tensor, Tensor]]
"""Site → (A of shape (r, in), scaling · B of shape (out, r))."""


class Update(Protocol):
    """What is added to the output of one site, as a function of its input; such as a `GatedUpdate`."""

    @property
    def out_features(self) -> int:
        """Features that the site writes."""
        ...

    @property
    def in_features(self) -> int:
        """Features that the site reads."""
        ...

    def __call__(self, x: Tensor) -> Tensor:
        """From inputs (..., in) to what is added to their outputs, (..., out)."""
        ...


Updates = Mapping[str, tuple[Tensor, Tensor] | Update]
"""Site → its factors, or a function of its input."""
_LEFT_OUT = ContextVar("updates are left out", default=False)
_READ_ROWS = ContextVar("updates read rows", default=False)


def find_sites(model: nn.Module, base: str, target_modules: Sequence[str] | str) -> dict[str, tuple[int, int]]:
    """Linear modules whose trailing dotted parts match a target, or whose whole name matches a regular expression.

    Returns site → (out, in); ``base`` names the model in errors.

    Raises:
        AdapterError: a target matches nothing.
    """
    linear = {name: size for name, module in model.named_modules() if (size := linear_size(module))}
    found: dict[str, tuple[int, int]] = {}
    is_pattern = isinstance(target_modules, str)
    for target in (target_modules,) if isinstance(target_modules, str) else target_modules:
        matches = {name: size for name, size in linear.items() if _is_target(name, target, is_pattern=is_pattern)}
        if not matches:
            names = ", ".join(sorted({name.rpartition(".")[2] for name in linear}))
            raise AdapterError(f"No linear module of {base} is called {target!r}; it has {names}.")
        found |= matches
    return {name: found[name] for name in linear if name in found}


def stores_transposed(model: nn.Module, base: str, sites: Iterable[str]) -> bool:
    """True if the weights at these sites are kept as (in, out), as GPT-2's are: PEFT's ``fan_in_fan_out``.

    Raises:
        AdapterError: some are and some are not, which one adapter cannot say.
    """
    kinds = {isinstance(model.get_submodule(site), nn.Linear) for site in sites}
    if len(kinds) > 1:
        raise AdapterError(
            f"Some weights of {base} at these sites are kept as (in, out) and others as (out, in), which one "
            "adapter cannot say; name target modules of one kind."
        )
    return kinds == {False}


@contextmanager
def site_updates(model: nn.Module, base: str, updates: Updates) -> Iterator[None]:
    """Add scaling · B · A, or what a function gives, to the outputs of sites of a model while the block runs.

    Raises:
        AdapterError: the model has no such site, or one of another shape.
    """
    handles = []
    before = _READ_ROWS.set(any(not isinstance(update, tuple) for update in updates.values()) or _READ_ROWS.get())
    try:
        for site, update in updates.items():
            if isinstance(update, tuple):
                lora_a, lora_b = update
                module = checked_site(model, base, site, lora_b.shape[0], lora_a.shape[1])
                hook = partial(_add_low_rank, lora_a=lora_a, lora_b=lora_b)
            else:
                module = checked_site(model, base, site, update.out_features, update.in_features)
                hook = partial(_add, update=update)
            handles.append(module.register_forward_hook(hook))
        yield
    finally:
        _READ_ROWS.reset(before)
        for handle in handles:
            handle.remove()


@contextmanager
def without_updates() -> Iterator[None]:
    """Leave all updates out while the block runs, those in use around it too; in this thread alone."""
    before = _LEFT_OUT.set(True)
    try:
        yield
    finally:
        _LEFT_OUT.reset(before)


def updates_are_left_out() -> bool:
    """True within `without_updates`."""
    return _LEFT_OUT.get()


def updates_read_rows() -> bool:
    """True if an update in use is a function, which may want the texts of a batch as rows."""
    return _READ_ROWS.get()


def linear_size(module: nn.Module) -> tuple[int, int] | None:
    """(out, in) of a linear module, whichever way round it keeps its weight; None for any other."""
    if isinstance(module, nn.Linear):
        return module.out_features, module.in_features
    if type(module).__name__ == "Conv1D" and isinstance(weight := getattr(module, "weight", None), Tensor):
        return weight.shape[1], weight.shape[0]  # transformers' own, (in, out)
    return None


def checked_site(model: nn.Module, base: str, site: str, out_features: int, in_features: int) -> nn.Module:
    """The module at a site, which is linear and of this shape.

    Raises:
        AdapterError: it is not.
    """
    try:
        module = model.get_submodule(site)
    except AttributeError:
        raise AdapterError(
            f"The adapter targets {site!r}, which {base} does not have; it was made for another base model."
        ) from None
    size = linear_size(module)
    if size is None:
        raise AdapterError(
            f"The adapter targets {site!r}, which is a {type(module).__name__} in {base}; "
            "only linear modules can be adapted."
        )
    if size != (out_features, in_features):
        raise AdapterError(
            f"The adapter maps {in_features} to {out_features} features at {site!r}, but {base} maps "
            f"{size[1]} to {size[0]} there; it was made for another base model."
        )
    return module


def _add_low_rank(
    _module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor, *, lora_a: Tensor, lora_b: Tensor
) -> Tensor:
    if updates_are_left_out():
        return output
    x = inputs[0]
    return output + F.linear(F.linear(x, lora_a.to(x)), lora_b.to(x))  # in the dtype and on the device of x


def _add(_module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor, *, update: Update) -> Tensor:
    return output if updates_are_left_out() else output + update(inputs[0])


def _is_target(name: str, target: str, *, is_pattern: bool) -> bool:
    if is_pattern:
        return matches(target, name)
    return name == target or name.endswith(f".{target}")
