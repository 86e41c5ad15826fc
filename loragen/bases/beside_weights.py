"""The files of a model's folder that are no weights: tokenizer, configs, pooling and further modules."""

import shutil
from pathlib import Path

_WEIGHTS = (".safetensors", ".safetensors.index.json", ".bin", ".bin.index.json", ".h5", ".msgpack", ".ot", ".onnx")
_EXPORTS = ("onnx", "openvino", "coreml")


def copy_beside_weights(base_folder: Path, folder: Path) -> None:
    """Copy what lies beside a base's weights, but not its exports to other runtimes, which hold weights too."""
    for path in base_folder.iterdir():
        if path.name.startswith(".") or path.name in _EXPORTS:
            continue
        if path.is_dir():
            shutil.copytree(path, folder / path.name)
        elif not path.name.endswith(_WEIGHTS):
            shutil.copyfile(path, folder / path.name)  # not its mode: a base may be read-only
