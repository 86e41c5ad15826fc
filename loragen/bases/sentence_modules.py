"""Folders of sentence-transformers: their modules as `modules.json` lists them, and their loading without foreign code.

The list names classes by their path in Python, which sentence-transformers imports; older versions of it also do so for
a file that lies in the model's folder.
"""

import json
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from loragen.bases.hub import quiet_loading
from loragen.bases.pretrained import loading_errors
from loragen.errors import ConfigError, shown

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

_FILE = "modules.json"
_OWN = ("Transformer", "Pooling", "Normalize", "Dense", "LayerNorm", "CLIPModel")
"""Modules of sentence-transformers whose settings name no further classes, or those of torch alone."""


@dataclass(frozen=True)
class SentenceModule:
    """One module of a sentence-transformers model."""

    type: str
    """Its class, by its path in Python."""
    folder: Path

    @property
    def kind(self) -> str:
        """The class without its path."""
        return self.type.rpartition(".")[2]

    def settings(self) -> dict[str, Any]:
        """Its ``config.json``; empty where there is none that can be read."""
        try:
            found = json.loads((self.folder / "config.json").read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError):
            return {}
        return found if isinstance(found, dict) else {}


def modules_of(folder: Path) -> tuple[SentenceModule, ...]:
    """The modules of a model's folder in their order; none where it has no ``modules.json``.

    Raises:
        ConfigError: the list is damaged, or names a folder outside of the model's.
    """
    try:
        listed = json.loads((folder / _FILE).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return ()
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(f"{folder / _FILE} cannot be read ({shown(error)}); fetch the model again.") from error
    if not isinstance(listed, list) or not all(map(_is_module, listed)):
        raise ConfigError(f"{folder / _FILE} is no list of modules, each of a type and a path; fetch the model again.")
    return tuple(SentenceModule(each["type"], folder / each["path"]) for each in listed)


def _is_module(entry: Any) -> bool:
    if not isinstance(entry, dict) or not all(isinstance(entry.get(key), str) for key in ("type", "path")):
        return False
    path = PurePosixPath(entry["path"])
    return not path.is_absolute() and ".." not in path.parts and "\\" not in entry["path"]


def load_sentence_transformer(folder: Path) -> "SentenceTransformer":
    """Load a model of sentence-transformers on the CPU, if all its modules are of the library itself.

    Raises:
        ConfigError: a module is of another class, so that loading it would run code that comes with the model.
    """
    for module in modules_of(folder):
        activation = str(module.settings().get("activation_function", "torch.nn."))
        if not module.type.startswith("sentence_transformers.") or module.kind not in _OWN:
            raise _foreign(folder, module.type)
        if module.kind == "Dense" and not activation.startswith("torch.nn."):
            raise _foreign(folder, activation)
    from sentence_transformers import SentenceTransformer

    with loading_errors(folder.name, "by sentence-transformers", option="--encoder"), quiet_loading():
        return SentenceTransformer(
            str(folder),
            device="cpu",
            trust_remote_code=False,
            local_files_only=True,
            model_kwargs={"use_safetensors": True},
        )


def _foreign(folder: Path, name: str) -> ConfigError:
    return ConfigError(
        f"The model {folder.name} has the module {shown(name)}, and no code that comes with a model is run; use one of "
        f"the modules {', '.join(_OWN)} of sentence-transformers."
    )
