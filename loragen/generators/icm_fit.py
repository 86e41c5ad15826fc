"""Trains ICM-LoRA on a zoo: the length of the training from left-out tasks, then the training on all."""

import gc
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from loragen.codec import Codec
from loragen.embedding import TextEncoder
from loragen.errors import ConfigError
from loragen.files import atomic_write
from loragen.frame import Frame
from loragen.generators.conditions import ConditionCodec
from loragen.generators.icm import ICM, ICMBatch, ICMManifest, ICMNetwork, ICMObjective
from loragen.generators.icm_episodes import ICMTrainConfig, Material, episodes, prepare
from loragen.generators.polish import Own, Unpolished, polish, subfolder
from loragen.generators.task_loss import TaskBatch
from loragen.generators.trained import rounded
from loragen.raw import RawFactors
from loragen.schedule import Schedule
from loragen.zoo import Zoo


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
        ConfigError: training on task loss is asked for, and the zoo, its base or the tasks to judge on will not do.
        TaskError: there too, a task or its examples are missing.
    """
    material = prepare(config, zoo, encoder)
    run = Run.of(config, material, range(len(zoo)))
    epochs, curves, history = 0, list[list[float]](), list[dict[str, float]]()
    if config.objective != "task":
        epochs, curves, history = _fit_weights(run, checkpoints, on_step)
    polished, codec = None, run.codec
    if config.objective != "weights":
        coder = ICMCoder(run.network, config.icm.prior_scale)
        generator = Unpolished(coder, run.codec, run.own(), config.icm.evidence, material.reading, run.conditions)
        polished, codec, of_tasks = polish(config, zoo, generator, checkpoints=checkpoints, on_step=on_step)
        history += of_tasks
    manifest = ICMManifest(
        **ICMManifest.facts(zoo, encoder),
        reading=material.reading,
        config=config.icm,
        factors=_layout(material.space),
        epochs=epochs,
        left_out=tuple(round(sum(values) / len(values), 4) for values in zip(*curves, strict=True)),
        polished=polished,
    )
    return ICM(manifest, rounded(run.network), run.conditions, codec, material.space, material.embeddings), history


def _fit_weights(
    run: "Run", checkpoints: Path | None, on_step: Callable[[int], None] | None
) -> tuple[int, list[list[float]], list[dict[str, float]]]:
    """Train a run of all tasks; returns its epochs, the curves of left-out tasks that chose them, and its losses."""
    config, material = run.config, run.material
    done = 0

    def report(step: int) -> None:
        if on_step is not None:
            on_step(done + step)

    curves = []
    for fold, left_out in enumerate(_folds(len(run.experts), config)):
        curves += _left_out_curves(config, material, left_out, subfolder(checkpoints, f"fold-{fold}"), report)
        gc.collect()  # what trained it is a cycle that would keep the fold's codec, which is large
        done += config.epochs * config.steps_per_epoch
    epochs = longest_as_good(torch.tensor(curves)) if curves else config.epochs
    return epochs, curves, run.fit(subfolder(checkpoints, "all"), on_step=report, epochs=epochs)


def longest_as_good(curves: Tensor) -> int:
    """The last epoch that is within one standard error of the best, from the curves of left-out tasks (n, epochs).

    Training on improves what is made for known tasks; it ends where that would cost unknown ones.
    """
    means = curves.mean(0)
    best = int(means.argmax())
    error = float(curves[:, best].std() / len(curves) ** 0.5) if len(curves) > 1 else 0.0
    return 1 + int((means >= means[best] - error).nonzero().max())


@dataclass(frozen=True, eq=False)
class Run:
    """One training on some of the experts."""

    config: ICMTrainConfig
    material: Material
    experts: Sequence[int]
    codec: Codec
    conditions: ConditionCodec
    network: ICMNetwork

    @classmethod
    def of(cls, config: ICMTrainConfig, material: Material, experts: Sequence[int]) -> "Run":
        """An untrained network, and codecs that know of these experts alone."""
        codec, conditions = material.codec(experts, config.icm), material.conditions(experts)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            network = ICMNetwork(codec.size, conditions.size, config.icm)
        return cls(config, material, experts, codec, conditions, network)

    def fit(
        self,
        checkpoints: Path | None,
        *,
        on_step: Callable[[int], None],
        on_epoch: Callable[[int], None] | None = None,
        epochs: int | None = None,
    ) -> list[dict[str, float]]:
        """Train the network; returns its losses, a row a step."""
        from loragen.training import fit

        config, own = self.config, self.own()
        schedule = Schedule(
            config.epochs, config.steps_per_epoch, config.learning_rate, weight_decay=config.weight_decay
        )
        return fit(
            own.objective,
            own.of_epochs(config),
            schedule,
            seed=config.seed,
            checkpoints=checkpoints,
            on_step=on_step,
            on_epoch=on_epoch,
            epochs=epochs,
        )

    def own(self) -> Own:
        """The network's own loss."""
        codes = self.material.codes(self.experts, self.codec, self.config.icm)

        def batches(steps: int, rng: torch.Generator) -> list[ICMBatch]:
            config = self.config.model_copy(update={"steps_per_epoch": steps})
            return episodes(self.material, self.experts, codes, self.conditions, config, rng=rng)

        return Own(ICMObjective(self.network, self.config.icm.kl_weight), batches)

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
            for vectors in [self.material.task_vectors(expert, shots=max(self.config.shots))]
            for kinds in ([next(iter(vectors))], list(vectors))
        ]
        condition = torch.stack(conditions).to(device)
        self.network.eval()
        codes = self.network.decode(condition.new_zeros(len(condition), self.config.icm.latent_size), condition).cpu()
        self.network.train()
        pairs = codes.reshape(-1, 2, codes.shape[1])
        return [float(value) for value in torch.stack([cosines(pairs[:, i]) for i in (0, 1)]).mean(0)]


def cosines_with(codec: Codec, own: Tensor) -> Callable[[Tensor], Tensor]:
    """How codes (n, k) align with adapters ``own`` (n, d): cosines (n,) in scaled coordinates, from the centre.

    What is the same for all codes is worked out once: codes are few, where coordinates may be millions.
    """
    targets = codec.encode(own)
    lengths = torch.stack([((one - codec.centre) / codec.scale).norm() for one in own])
    products = None if codec.basis is None else codec.basis @ codec.basis.T

    def cosines(codes: Tensor) -> Tensor:
        squares = codes * (codes if products is None else codes @ products)
        return (codes * targets).sum(1) / (squares.sum(1).clamp_min(0).sqrt() * lengths).clamp_min(1e-8)

    return cosines


class ICMCoder(nn.Module):
    """The network as training on task loss wants it: from a batch to codes, one adapter at a time.

    Batch normalisation stays as training on weights left it, and untrained where there was none.
    """

    def __init__(self, network: ICMNetwork, prior_scale: float) -> None:
        super().__init__()
        self.network = network
        self.network.keeps_statistics = True
        self.prior_scale = prior_scale
        self.train()

    def forward(self, batch: TaskBatch) -> Tensor:
        """Codes (k,) of one draw from the prior in training, otherwise of its mean."""
        condition = batch.query.flatten()[None]
        z = condition.new_zeros(1, self.network.mean.out_features)
        if self.training:
            z = self.prior_scale * torch.randn_like(z)
        codes: Tensor = self.network.decode(z, condition)[0]
        return codes


def _left_out_curves(
    config: ICMTrainConfig,
    material: Material,
    left_out: Sequence[int],
    folder: Path | None,
    on_step: Callable[[int], None],
) -> list[list[float]]:
    """For each left-out task the alignment after every epoch of a training on the others."""
    experts = [expert for expert in range(len(material.samples)) if expert not in set(left_out)]
    run = Run.of(config, material, experts)
    cosines = cosines_with(run.codec, material.samples[list(left_out), 0])
    kept = folder / "alignment.json" if folder is not None else None
    epochs: dict[str, list[float]] = json.loads(kept.read_text()) if kept is not None and kept.exists() else {}

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
