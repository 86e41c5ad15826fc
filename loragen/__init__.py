"""Describe a task in words; get a LoRA.

    import loragen

    labels = ["noise", "rubbish", "parking"]
    adapter = loragen.generate("Tell noise, rubbish and parking complaints apart.", labels=labels)
    adapter.classify(["The bins were not emptied."])
    adapter.save("adapters/complaints")

The library prints nothing and never exits. Names are imported when they are first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from loragen.errors import (
    AdapterError,
    ConfigError,
    GeneratorError,
    LoragenError,
    MissingExtraError,
    TaskError,
    ZooError,
)

if TYPE_CHECKING:
    from loragen.base_store.describe import describe_base
    from loragen.base_store.get import get_base
    from loragen.base_store.listing import list_bases
    from loragen.base_store.prune import prune_base
    from loragen.bases.classify import Prediction
    from loragen.bench.run import bench_recipes
    from loragen.bundled import config_names, config_text, copy_config
    from loragen.combination import combine
    from loragen.compose.composed import open_adapter
    from loragen.compose.listing import list_methods
    from loragen.compose.making import compose_experts
    from loragen.confidence.adding import add_if_new
    from loragen.confidence.describe import describe_zoo
    from loragen.confidence.novelty import novelty
    from loragen.continual.forget.classes import forget_classes
    from loragen.continual.forget.forgetting import forget, undo_forgetting
    from loragen.continual.listing import list_strategies
    from loragen.continual.update import update_generator
    from loragen.evaluation.evaluate import evaluate_generators
    from loragen.evaluation.own_data import evaluate
    from loragen.evaluation.sequences.run import evaluate_sequence
    from loragen.exporters.check import check
    from loragen.generation import generate, generate_samples
    from loragen.generators.base import Generator
    from loragen.generators.listing import list_generators
    from loragen.generators.train import train
    from loragen.generators.update import update_zoo
    from loragen.inference import Adapter, classify, complete
    from loragen.recipes.listing import list_recipes
    from loragen.recovery import recover
    from loragen.serving.run import serve
    from loragen.tasks.examples import Examples
    from loragen.tasks.task_set import Task, TaskSet
    from loragen.zoo.add import add_expert
    from loragen.zoo.build import build_zoo
    from loragen.zoo.expert_index import search
    from loragen.zoo.import_adapters import import_adapters
    from loragen.zoo.init import init_zoo
    from loragen.zoo.pack import pack_zoo
    from loragen.zoo.remove import remove_expert
    from loragen.zoo.zoo import Zoo

_HOMES = {
    "Adapter": "inference",
    "Examples": "tasks.examples",
    "Generator": "generators.base",
    "Prediction": "bases.classify",
    "Task": "tasks.task_set",
    "TaskSet": "tasks.task_set",
    "Zoo": "zoo.zoo",
    "add_expert": "zoo.add",
    "add_if_new": "confidence.adding",
    "bench_recipes": "bench.run",
    "build_zoo": "zoo.build",
    "check": "exporters.check",
    "classify": "inference",
    "combine": "combination",
    "complete": "inference",
    "compose_experts": "compose.making",
    "config_names": "bundled",
    "config_text": "bundled",
    "copy_config": "bundled",
    "describe_base": "base_store.describe",
    "describe_zoo": "confidence.describe",
    "evaluate": "evaluation.own_data",
    "evaluate_generators": "evaluation.evaluate",
    "evaluate_sequence": "evaluation.sequences.run",
    "forget": "continual.forget.forgetting",
    "forget_classes": "continual.forget.classes",
    "generate": "generation",
    "generate_samples": "generation",
    "get_base": "base_store.get",
    "import_adapters": "zoo.import_adapters",
    "init_zoo": "zoo.init",
    "list_bases": "base_store.listing",
    "list_generators": "generators.listing",
    "list_methods": "compose.listing",
    "list_recipes": "recipes.listing",
    "list_strategies": "continual.listing",
    "novelty": "confidence.novelty",
    "open_adapter": "compose.composed",
    "pack_zoo": "zoo.pack",
    "prune_base": "base_store.prune",
    "recover": "recovery",
    "remove_expert": "zoo.remove",
    "search": "zoo.expert_index",
    "serve": "serving.run",
    "train": "generators.train",
    "update_generator": "continual.update",
    "update_zoo": "generators.update",
    "undo_forgetting": "continual.forget.forgetting",
}

__all__ = [
    "Adapter",
    "AdapterError",
    "ConfigError",
    "Examples",
    "Generator",
    "GeneratorError",
    "LoragenError",
    "MissingExtraError",
    "Prediction",
    "Task",
    "TaskError",
    "TaskSet",
    "Zoo",
    "ZooError",
    "add_expert",
    "add_if_new",
    "bench_recipes",
    "build_zoo",
    "check",
    "classify",
    "combine",
    "complete",
    "compose_experts",
    "config_names",
    "config_text",
    "copy_config",
    "describe_base",
    "describe_zoo",
    "evaluate",
    "evaluate_generators",
    "evaluate_sequence",
    "forget",
    "forget_classes",
    "generate",
    "generate_samples",
    "get_base",
    "import_adapters",
    "init_zoo",
    "list_bases",
    "list_generators",
    "list_methods",
    "list_recipes",
    "list_strategies",
    "novelty",
    "open_adapter",
    "pack_zoo",
    "prune_base",
    "recover",
    "remove_expert",
    "search",
    "serve",
    "train",
    "undo_forgetting",
    "update_generator",
    "update_zoo",
]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("loragen")
    if name == "compose":  # a room whose `load` is public
        return import_module("loragen.compose")
    if name not in _HOMES:
        raise AttributeError(f"module 'loragen' has no attribute {name!r}")
    value = getattr(import_module(f"loragen.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
