"""Puts in order what processes left that were killed while they changed a zoo."""

from loragen.files import sweep
from loragen.zoo.card import EXPERTS
from loragen.zoo.card_table import TABLE, reading, set_wiped, to_be_wiped, writing
from loragen.zoo.changes import settle
from loragen.zoo.shards import wipe_row
from loragen.zoo.zoo import Zoo


def tidy(zoo: Zoo) -> None:
    """Settle the log, and finish removals; in a process that holds the zoo's lock, before it changes anything.

    Args:
        zoo: the whole zoo as it is.

    Raises:
        ZooError: the log, the table or a shard is damaged.
    """
    settle(zoo.root, zoo.fingerprint)
    sweep(zoo.root / EXPERTS)
    wipe(zoo)


def wipe(zoo: Zoo) -> None:
    """Write zeros over the weights of experts that were taken out of a packed zoo, where that is still to be done.

    Raises:
        ZooError: the table or a shard is damaged.
    """
    if zoo.sharded is None:
        return
    with reading(zoo.root / TABLE) as opened:
        places = to_be_wiped(opened)
    if places:
        for shard, place in places:
            wipe_row(zoo.root, zoo.sharded.shared, shard, place)
        with writing(zoo.root / TABLE) as opened:
            set_wiped(opened)
