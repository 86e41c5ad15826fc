"""Packs a zoo: the same experts and generators in a fraction of the bytes, for handing on."""

import shutil
from pathlib import Path

from loragen.files import atomic_folder
from loragen.recipes.methods.lora_sb import GRADIENTS
from loragen.zoo.card import CARD, EXPERTS, MULTITASK_FOLDER, ZOO_MANIFEST
from loragen.zoo.packed import PACKED, packed
from loragen.zoo.start import START
from loragen.zoo.zoo import Zoo

TAKEN = (MULTITASK_FOLDER, "generators", "embeddings", "confidence")
"""Folders that go along as they are."""


def pack_zoo(zoo: Zoo | Path, out: Path, *, replace: bool = False) -> Zoo:
    """Write a zoo whose experts lie in one file, without what only training needs: variances, snapshots, folds.

    Generators that were trained on the zoo fit the packed one as well; what is trained on it knows no variances.

    Args:
        zoo: a zoo or its folder, or a selection of its experts.
        out: folder of the packed zoo.
        replace: take the place of a packed zoo that stands there.

    Raises:
        ZooError: there is no such zoo, or its experts do not share their A.
        ConfigError: something stands at ``out``.
    """
    source = zoo if isinstance(zoo, Zoo) else Zoo.open(zoo)
    content = packed(source.ids, [source.adapter(expert) for expert in source.ids])
    with atomic_folder(out, replace=replace) as folder:
        (folder / PACKED).write_bytes(content)
        shutil.copyfile(source.root / ZOO_MANIFEST, folder / ZOO_MANIFEST)
        if source.manifest.frame == GRADIENTS:  # the bases that coordinates are read over
            shutil.copyfile(source.root / START, folder / START)
        for expert in source.ids:
            (folder / EXPERTS / expert).mkdir(parents=True)
            shutil.copyfile(source.folder(expert) / CARD, folder / EXPERTS / expert / CARD)
        for name in TAKEN:
            if (source.root / name).is_dir():
                shutil.copytree(source.root / name, folder / name, ignore=shutil.ignore_patterns(".*"))
    return Zoo.open(out)
