"""Trains ICM-LoRA on a zoo: the length of the training from left-out tasks, then the training on all."""

import gc
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from loragen.adapters.codec import Codec
from loragen.adapters.frame import Frame
from loragen.adapters.raw_factors import RawFactors
from loragen.conditions.condition import ConditionCodec
from loragen.conditions.text_encoder import TextEncoder
from loragen.errors import ConfigError
from loragen.files import atomic_write
from loragen.generators.icm.episodes import ICMData, ICMTrainConfig, episodes, read_experts
from loragen.generators.icm.model import ICM, ICMBatch, ICMManifest, ICMNetwork, ICMObjective
from loragen.generators.trained import kept_values, rounded, subfolder
from loragen.training.ranks import agreed
from loragen.zoo.zoo import Zoo


def fit_icm(
    config: ICMTrainConfig,
    zoo: Zoo,
    encoder: TextEncoder,
    *,
    checkpoints: Path | None = None,
    on_step: Callable[[int], None] | None = None,
) -> tuple[ICM, list[dict[str, float]]]:
    """Train ICM-LoRA on the experts of a zoo; returns the generator and its losses, a row a step.

    With ``folds``, it is first trained without each part of the tasks in turn, and how well the left-out tasks'
    adapters were met (their alignment) chooses the number of epochs (`longest_as_good`).

    Raises:
        ConfigError: texts are read and the config names no tasks, or its folds leave no task to learn from.
        TaskError: a task or its examples are missing.
    """
    data = read_experts(config, zoo, encoder)
    run = ICMRun.of(config, data, range(len(zoo)))
    epochs, curves, history = _fit_all(run, checkpoints, on_step)
    manifest = ICMManifest(
        **ICMManifest.facts(zoo, encoder),
        reading=data.reading,
        config=config.icm,
        factors=_layout(data.space),
        epochs=epochs,
        left_out=tuple(round(sum(values) / len(values), 4) for values in zip(*curves, strict=True)),
    )
    return ICM(manifest, rounded(run.network), run.conditions, run.codec, data.space, data.embeddings), history


def _fit_all(
    run: "ICMRun", checkpoints: Path | None, on_step: Callable[[int], None] | None
) -> tuple[int, list[list[float]], list[dict[str, float]]]:
    """Train a run of all tasks; returns its epochs, the curves of left-out tasks that chose them, and its losses."""
    config, data = run.config, run.data
    done = 0

    def report(step: int) -> None:
        if on_step is not None:
            on_step(done + step)

    curves = []
    for fold, left_out in enumerate(_folds(len(run.experts), config)):
        curves += _left_out_curves(config, data, left_out, subfolder(checkpoints, f"fold-{fold}"), report)
        gc.collect()  # what trained it is a cycle that would keep the fold's codec, which is large
        done += config.epochs * config.steps_per_epoch
    curves = agreed(curves)  # of several processes rank 0 alone judges
    epochs = longest_as_good(torch.tensor(curves)) if curves else config.epochs
    return epochs, curves, run.fit(subfolder(checkpoints, "all"), on_step=report, epochs=epochs)


def longest_as_good(curves: Tensor) -> int:
    """The last epoch that is within one standard error of the best, from the curves of left-out tasks (n, epochs).

    Further epochs improve the adapters of known tasks; training ends where they would cost unknown tasks.
    """
    means = curves.mean(0)
    best = int(means.argmax())
    error = float(curves[:, best].std() / len(curves) ** 0.5) if len(curves) > 1 else 0.0
    return 1 + int((means >= means[best] - error).nonzero().max())


@dataclass(frozen=True, eq=False)
class ICMRun:
    """One training on some of the experts."""

    config: ICMTrainConfig
    data: ICMData
    experts: Sequence[int]
    codec: Codec
    conditions: ConditionCodec
    network: ICMNetwork

    @classmethod
    def of(cls, config: ICMTrainConfig, data: ICMData, experts: Sequence[int]) -> "ICMRun":
        """An untrained network, and codecs that know of these experts alone."""
        codec, conditions = data.codec(experts, config.icm), data.conditions(experts)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            network = ICMNetwork(codec.size, conditions.size, config.icm)
        return cls(config, data, experts, codec, conditions, network)

    def fit(
        self,
        checkpoints: Path | None,
        *,
        on_step: Callable[[int], None],
        on_epoch: Callable[[int], None] | None = None,
        epochs: int | None = None,
    ) -> list[dict[str, float]]:
        """Train the network; returns its losses, a row a step."""
        from loragen.training.lightning_fit import fit

        config = self.config
        codes = self.data.codes(self.experts, self.codec, config.icm)

        def batches(epoch: int) -> list[ICMBatch]:
            rng = torch.Generator().manual_seed(config.seed * 1_000_003 + epoch)
            return episodes(self.data, self.experts, codes, self.conditions, config, rng=rng)

        return fit(
            ICMObjective(self.network, config.icm.kl_weight),
            batches,
            config.schedule,
            seed=config.seed,
            checkpoints=checkpoints,
            on_step=on_step,
            on_epoch=on_epoch,
            epochs=epochs,
            devices=config.hardware,
        )

    @torch.no_grad()
    def alignment(self, left_out: Sequence[int], cosines: Callable[[Tensor], Tensor]) -> list[float]:
        """For each left-out task the mean cosine of adapters generated for it with its own, from the others' centre.

        Generated are two with z = 0, one from the first kind of evidence alone and one from all kinds.
        The cosine, since a squared error prefers the centre to any guess in so many dimensions; see `cosines_with`.
        """
        device = next(self.network.parameters()).device
        conditions = [
            self.conditions.of({kind: vectors[kind] for kind in kinds}, tuple(vectors))
            for expert in left_out
            for vectors in [self.data.task_vectors(expert, shots=max(self.config.shots))]
            for kinds in ([next(iter(vectors))], list(vectors))
        ]
        condition = torch.stack(conditions).to(device)
        self.network.eval()
        codes = self.network.decode(condition.new_zeros(len(condition), self.config.icm.latent_size), condition).cpu()
        self.network.train()
        pairs = codes.reshape(-1, 2, codes.shape[1])
        return [float(value) for value in torch.stack([cosines(pairs[:, i]) for i in (0, 1)]).mean(0)]


def cosines_with(codec: Codec, own: Tensor) -> Callable[[Tensor], Tensor]:
    """Alignment of codes (n, k) with adapters ``own`` (n, d): cosines (n,) in scaled coordinates, from the centre.

    What is the same for all codes is worked out once: codes are few, where coordinates may be millions.
    """
    targets = codec.encode(own)
    lengths = torch.stack([((one - codec.centre) / codec.scale).norm() for one in own])
    products = None if codec.basis is None else codec.basis @ codec.basis.T

    def cosines(codes: Tensor) -> Tensor:
        squares = codes * (codes if products is None else codes @ products)
        return (codes * targets).sum(1) / (squares.sum(1).clamp_min(0).sqrt() * lengths).clamp_min(1e-8)

    return cosines


def _left_out_curves(
    config: ICMTrainConfig,
    data: ICMData,
    left_out: Sequence[int],
    folder: Path | None,
    on_step: Callable[[int], None],
) -> list[list[float]]:
    """For each left-out task the alignment after every epoch of a training on the others."""
    experts = [expert for expert in range(len(data.samples)) if expert not in set(left_out)]
    run = ICMRun.of(config, data, experts)
    cosines = cosines_with(run.codec, data.samples[list(left_out), 0])
    kept = folder / "alignment.json" if folder is not None else None
    epochs: dict[str, list[float]] = agreed(kept_values(kept))

    def judge(epoch: int) -> None:
        epochs[str(epoch)] = run.alignment(left_out, cosines)
        if kept is not None:
            atomic_write(kept, json.dumps(epochs))

    if len(epochs) < config.epochs:
        run.fit(folder, on_step=on_step, on_epoch=judge)
    return [list(curve) for curve in zip(*epochs.values(), strict=True)]


def _folds(n: int, config: ICMTrainConfig) -> list[list[int]]:
    """Random parts of equal size, as many as asked for, at most one a task.

    Raises:
        ConfigError: one part would hold all tasks.
    """
    if config.folds == 0:
        return []
    folds = min(config.folds, n)
    if folds == 1:
        raise ConfigError(
            f"With 'folds: {config.folds}' and {n} experts no task is left to learn from; at least 2 of both were "
            "wanted, or 'folds: 0'."
        )
    order = torch.randperm(n, generator=torch.Generator().manual_seed(config.seed)).tolist()
    return [sorted(order[fold::folds]) for fold in range(folds)]


def _layout(space: Frame | RawFactors) -> dict[str, tuple[int, int, int]] | None:
    if isinstance(space, Frame):
        return None
    return {site.name: (site.out_features, site.in_features, site.r) for site in space.spec.sites}
