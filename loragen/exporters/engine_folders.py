"""Folders that engines pick up: adapters as vLLM, SGLang and LoRAX want them.

These engines take one rank and one scaling for all sites, sites by the last part of their names, and the name of the
base as they serve it. Conventions: docs/features/lora.md and the filesystem resolver of vLLM, server arguments of
SGLang, docs/models/adapters of LoRAX, as of September 2026. None of the three is run here.
"""

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch.nn.functional as F

from loragen.adapters.adapter import Lora
from loragen.adapters.settings import CONFIG_NAME
from loragen.bases.architecture import Architecture
from loragen.errors import AdapterError
from loragen.exporters.export import Exported, Request
from loragen.exporters.lorax_rules import judge_lorax
from loragen.exporters.verdict import Verdict
from loragen.exporters.vllm_rules import judge_vllm
from loragen.files import atomic_folder

Rules = Callable[[Lora, dict[str, Any], Architecture], Verdict]


def write_vllm(request: Request) -> Exported:
    """A folder for vLLM's filesystem resolver, or for `--lora-modules`.

    Raises:
        AdapterError: by its rules vLLM would refuse the adapter, or serve it wrongly.
        ConfigError: something stands where it is to be written.
    """
    use = (
        f"VLLM_ALLOW_RUNTIME_LORA_UPDATING=True VLLM_PLUGINS=lora_filesystem_resolver "
        f"VLLM_LORA_RESOLVER_CACHE_DIR={request.out.parent} vllm serve {base_name(request)} --enable-lora, and ask for "
        f"the model {request.out.name}"
    )
    return _written(request, use, lambda adapter, config, base: judge_vllm(adapter, config, base))


def write_sglang(request: Request) -> Exported:
    """A folder for SGLang's `--lora-paths`.

    Raises:
        ConfigError: something stands where it is to be written.
    """
    use = f"sglang serve --model-path {base_name(request)} --lora-paths {request.out.name}={request.out}"
    return _written(request, use, None)


def write_lorax(request: Request) -> Exported:
    """A folder for LoRAX, with `adapter_source` local.

    Raises:
        AdapterError: by its rules LoRAX would refuse the adapter, or serve it wrongly.
        ConfigError: something stands where it is to be written.
    """
    use = f'ask for "adapter_id": "{request.out}", "adapter_source": "local"'
    return _written(request, use, lambda adapter, _config, base: judge_lorax(adapter, base))


def uniform(adapter: Lora, served: str) -> Lora:
    """The same update, float32, with one rank, a scaling of 1, and sites by the last part of their names."""
    r = max(site.r for site in adapter.spec.sites)
    factors = {site: adapter.scaled_factors(site) for site in adapter.sites}
    name, _, revision = served.partition("@")
    settings = replace(
        adapter.settings,
        r=r,
        lora_alpha=float(r),
        use_rslora=False,
        rank_pattern={},
        alpha_pattern={},
        target_modules=tuple(dict.fromkeys(site.rpartition(".")[2] for site in adapter.sites)),
        base_model_name_or_path=name,
        revision=revision or None,
    )
    return Lora(
        settings,
        {site: F.pad(a, (0, 0, 0, r - len(a))) for site, (a, _) in factors.items()},
        {site: F.pad(b, (0, r - b.shape[1])).contiguous() for site, (_, b) in factors.items()},
    )


def base_name(request: Request) -> str:
    """The base as the program names it."""
    return request.base_name or request.base


def _written(request: Request, use: str, rules: Rules | None) -> Exported:
    adapter = uniform(request.adapter, base_name(request))
    files = adapter.files()
    base = Architecture.at_hand(request.base, adapter.sites, adapter.settings.task_type)
    notes = ["the program itself was not run"]
    if base is not None and rules is not None:
        verdict = rules(adapter, json.loads(files[CONFIG_NAME]), base)
        if verdict.problems:
            raise AdapterError(f"Not written for {verdict.server}: {verdict.problems[0]}")
        notes += verdict.notes
    elif base is None:
        notes.append("not compared with the base, whose config is not at hand")
    with atomic_folder(request.out, replace=request.force) as folder:
        for name, content in files.items():
            (folder / name).write_bytes(content)
    arch = adapter.settings.task_type or "" if base is None else base.model_class
    return Exported(request.out, arch, len(adapter.sites), request.dtype, use, tuple(notes))
