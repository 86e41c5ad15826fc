"""Errors along the straight path between a generator's weights before and after an update.

    python benchmarks/continual_paths.py         # after continual.py, whose generators it reads from runs/sequence
    python benchmarks/continual_paths.py --show  # the table again

I-LoRA's authors (2402.18865) see that two minima of a sequence are joined by a path of low loss. For the last group
of configs/sequence/groups.yaml the weights of the network move in five steps from those before to those after; the
error is ‖ΔW - ΔW*‖ / ‖ΔW*‖ of what is generated for all experts, from wordings that no generator has read, and "ridge"
says by how much the highest point between lies above the higher end. More than a tenth would speak against it.
"""

import argparse
import json
from collections.abc import Mapping
from statistics import mean

from continual import CONFIG, KINDS, RESULTS, RUNS
from torch import Tensor

from loragen.adapters.products import distance
from loragen.cli import console
from loragen.conditions.condition import Evidence
from loragen.evaluation.sequences.config import SequenceConfig
from loragen.evaluation.sequences.moments import asked_with
from loragen.files import atomic_write
from loragen.generation import Pipeline
from loragen.zoo.zoo import Zoo

FIGURES = RESULTS / "paths.json"
STRATEGIES = ("naive", "replay", "ilora")
SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)
MOST_RIDGE = 0.1


def network_state(pipeline: Pipeline) -> dict[str, Tensor]:
    """A copy of the weights of a pipeline's generator."""
    state: Mapping[str, Tensor] = pipeline.generator.network.state_dict()  # type: ignore[attr-defined]
    return {name: tensor.clone() for name, tensor in state.items()}


def error(pipeline: Pipeline, zoo: Zoo, experts: tuple[str, ...]) -> float:
    """Mean relative distance of what is generated to the experts."""
    found = []
    for name in experts:
        (made,) = pipeline.generate(Evidence(asked_with(zoo, name)), seed=0)
        expert = zoo.adapter(name)
        found.append(float(distance(made.adapter, expert) / expert.norm()))
    return mean(found)


def path(kind: str, strategy: str, config: SequenceConfig, zoo: Zoo) -> list[float]:
    """Errors along the path of the last update."""
    before, after = list(config.groups)[-2:]
    generators, zoos = RUNS / kind / "generators" / strategy, RUNS / kind / "zoos"
    pipeline = Pipeline.open(str(generators / after), Zoo.open(zoos / f"until-{after}"))
    new = network_state(pipeline)
    old = network_state(Pipeline.open(str(generators / before), Zoo.open(zoos / f"until-{before}")))
    errors = []
    for share in SHARES:
        mixed = {
            name: value.lerp(new[name], share) if value.is_floating_point() else new[name]
            for name, value in old.items()
        }
        pipeline.generator.network.load_state_dict(mixed)  # type: ignore[attr-defined]
        errors.append(round(error(pipeline, zoo, config.ids), 4))
    return errors


def ridge(errors: list[float]) -> float:
    """How far the highest point between the ends lies above the higher end, relative to it."""
    return max(errors[1:-1]) / max(errors[0], errors[-1]) - 1


def kept() -> dict[str, dict[str, list[float]]]:
    """Kind → strategy → errors of earlier runs."""
    found: dict[str, dict[str, list[float]]] = json.loads(FIGURES.read_text()) if FIGURES.exists() else {}
    return found


def table() -> str:
    """A row a path."""
    shares = " | ".join(f"{share:g}" for share in SHARES)
    lines = [
        f"| generator, strategy | {shares} | ridge | at most {MOST_RIDGE:g} |",
        f"|---|{'---|' * (len(SHARES) + 2)}",
    ]
    for kind, strategies in kept().items():
        for strategy, errors in strategies.items():
            numbers = " | ".join(f"{value:.3f}" for value in errors)
            holds = "yes" if ridge(errors) <= MOST_RIDGE else "**no**"
            lines.append(f"| {kind}, {strategy} | {numbers} | {ridge(errors):+.3f} | {holds} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--show", action="store_true")
    if not parser.parse_args().show:
        config = SequenceConfig.from_yaml(CONFIG, [])
        zoo, found = Zoo.open(config.zoo), kept()
        for kind in KINDS:
            for strategy in STRATEGIES:
                console.say(f"{kind}, {strategy}")
                found.setdefault(kind, {})[strategy] = path(kind, strategy, config, zoo)
                atomic_write(FIGURES, json.dumps(found, indent=1) + "\n")
    print(table())


if __name__ == "__main__":
    main()
