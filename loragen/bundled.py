"""Places of what is bundled with loragen: inside an installed wheel, or at the top of a source tree."""

from importlib.metadata import entry_points
from pathlib import Path

from loragen.errors import ConfigError, shown
from loragen.files import atomic_write

PACKAGE = Path(__file__).parent
ZOOS = "loragen.zoos"


def bundled_folder(name: str) -> Path:
    """The folder ``zoo`` or ``configs``."""
    inside = PACKAGE / f"_{name}"
    return inside if inside.is_dir() else PACKAGE.parent / name


def zoo_folders() -> dict[str, Path]:
    """Name → folder of the zoos that are bundled, or that a package of their own brings.

    Such a package names its folder by an entry point of the group ``loragen.zoos``.
    """
    bundled = {path.parent.name: path.parent for path in sorted(bundled_folder("zoo").glob("*/zoo.yaml"))}
    return {entry.name: Path(entry.load()) for entry in entry_points(group=ZOOS)} | bundled


def config_names() -> tuple[str, ...]:
    """Names of the ready configs, such as ``train/sg``."""
    folder = bundled_folder("configs")
    return tuple(sorted(path.relative_to(folder).with_suffix("").as_posix() for path in folder.rglob("*.yaml")))


def config_text(name: str) -> str:
    """A ready config as YAML.

    Raises:
        ConfigError: there is none of that name.
    """
    if name.removesuffix(".yaml") not in config_names():
        raise ConfigError(f"There is no ready config {shown(name)}; `loragen config list` shows all.")
    return (bundled_folder("configs") / f"{name.removesuffix('.yaml')}.yaml").read_text(encoding="utf-8")


def copy_config(name: str, out: Path) -> Path:
    """Write a copy of a ready config, to be changed: to a file, or into a folder under its own name.

    Raises:
        ConfigError: there is none of that name, or the file is there already.
    """
    text = config_text(name)
    target = out / f"{name.removesuffix('.yaml').replace('/', '-')}.yaml" if out.is_dir() else out
    if target.exists():
        raise ConfigError(f"{target} is there already; give another --out.")
    atomic_write(target, text)
    return target
