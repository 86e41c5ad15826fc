"""Takes an expert out of a zoo of folders; to be swapped for `remove_expert` of the zoo's own room, for all zoos."""

import shutil

from loragen.errors import ZooError
from loragen.locks import lock
from loragen.zoo.zoo import Zoo


def refuse_packed(expert: str, zoo: Zoo) -> None:
    """Refuse what cannot be removed, before anything is changed.

    Raises:
        ZooError: the zoo is packed.
    """
    if zoo.sharded is not None:
        raise ZooError(
            f"The zoo {zoo.root} is packed; add --keep-expert, then take {expert} out of it with `loragen zoo remove`."
        )


def remove_expert(expert: str, zoo: Zoo) -> None:
    """Remove the folder of an expert: under a name that nothing reads at first, then for good.

    Raises:
        ZooError: the zoo is packed, or has no such expert, or no other.
        ConfigError: another process writes there.
    """
    refuse_packed(expert, zoo)
    if len(zoo) < 2:
        raise ZooError(f"{expert} is the last expert of {zoo.root}; none would be left.")
    with lock(zoo.root):
        folder = zoo.folder(expert)
        doomed = folder.with_name(f".{folder.name}.retiring.partial")  # which `files.sweep` clears away
        shutil.rmtree(doomed, ignore_errors=True)
        folder.rename(doomed)
        shutil.rmtree(doomed)
