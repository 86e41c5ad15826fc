"""Takes one expert into a zoo that is there, whole or not at all, with a line in the zoo's log."""

from collections.abc import Mapping
from types import MappingProxyType

import numpy as np

from loragen.adapters.adapter import Lora
from loragen.conditions.text_encoder import TextEncoder
from loragen.errors import ZooError, cut
from loragen.locks import lock
from loragen.recipes.registry import row_of
from loragen.zoo.card import CARD, EXPERTS, Card
from loragen.zoo.card_table import TABLE, Place, insert, last_place, set_embedded, writing
from loragen.zoo.changes import PATIENCE_S, fingerprint_of, logged
from loragen.zoo.embedding_table import EmbeddingTable
from loragen.zoo.shards import ShardedExperts, file_hash, write_row
from loragen.zoo.tidy import tidy
from loragen.zoo.zoo import Zoo

Files = Mapping[str, str | bytes]
"""Contents of files by name."""
NO_FILES: Files = MappingProxyType({})


def insert_expert(
    zoo: Zoo,
    card: Card,
    adapter: Lora,
    *,
    files: Files = NO_FILES,
    encoder: TextEncoder | None = None,
) -> Zoo:
    """Add an expert to a zoo; one process at a time adds, and one that is killed leaves the zoo before or after.

    In a packed zoo one row of a shard and of the table are written, and the embeddings, however many experts there are.
    Generators that were trained on the zoo are then behind.

    Args:
        zoo: the zoo, whole or a selection.
        card: of the expert.
        adapter: over the A of the zoo's experts, with their settings and type.
        files: further files of the expert by name, such as its snapshots; packed zoos keep none.
        encoder: embeds descriptions; where the zoo keeps embeddings by it, the expert's is kept too. Otherwise they are
            computed when the zoo is searched next.

    Returns:
        The whole zoo as it is now.

    Raises:
        ZooError: there is an expert of that name, or this one does not fit the zoo.
        ConfigError: another process writes there, for longer than a change of a zoo takes.
    """
    with lock(zoo.root, wait_s=PATIENCE_S):
        here = Zoo.open(zoo.root)
        tidy(here)
        refuse_stranger(here, card)
        if adapter.norm() == 0:
            raise ZooError(f"All delta weights of the expert {card.id} are zero; it does nothing. Train it again.")
        _refuse_misfit(here, card.id, adapter)
        sha256 = file_hash(adapter)
        after = fingerprint_of({**here.hashes, card.id: sha256})
        with logged(here.root, "added", card.id, sha256, before=here.fingerprint, after=after):
            if here.sharded is None:
                folder = here.root / EXPERTS / card.id
                adapter.save(folder, extra_files={**files, CARD: card.to_yaml()}, replace=False)
            else:
                _add_row(here, here.sharded, card, adapter, encoder)
    return Zoo.open(zoo.root)


def refuse_stranger(zoo: Zoo, card: Card) -> None:
    """Refuse an expert of another base, or of a name that is taken.

    Raises:
        ZooError: it is one.
    """
    if card.id in zoo.cards:
        raise ZooError(f"The zoo {cut(zoo.root)} has an expert {card.id} already; give another name.")
    if (card.base, card.base_hash) != (zoo.manifest.base, zoo.manifest.base_hash):
        raise ZooError(
            f"The expert {card.id} is of the base {cut(card.base)} ({card.base_hash[:12]}), the zoo of "
            f"{cut(zoo.manifest.base)} ({zoo.manifest.base_hash[:12]}); add it to a zoo of its own base."
        )


def _refuse_misfit(zoo: Zoo, expert: str, adapter: Lora) -> None:
    if zoo.sharded is not None:
        zoo.sharded.shared.row(expert, adapter)
    elif zoo.ids:
        reference = zoo.adapter(zoo.ids[0]).spec
        difference = adapter.spec.difference(reference, in_rank=row_of(zoo.manifest.recipe).keeps_frame)
        if difference:
            raise ZooError(f"The expert {expert} does not fit the zoo {cut(zoo.root)}: {difference}")


def _add_row(zoo: Zoo, sharded: ShardedExperts, card: Card, adapter: Lora, encoder: TextEncoder | None) -> None:
    """Write the weights and embeddings behind the last ones, and then the rows that make them count, in one step."""
    row = sharded.shared.row(card.id, adapter)
    table = sharded.table
    kept = None
    if encoder is not None and table.embedded(encoder.key) == table.size():
        kept = EmbeddingTable.of(zoo.root, encoder)
        embedded = kept.embedded([card.descriptions])
    with writing(zoo.root / TABLE) as opened:
        shard, place = write_row(zoo.root, sharded.shared, last_place(opened), row)
        insert(opened, [(card, Place(shard, place, file_hash(adapter)))])
        if kept is not None and encoder is not None:
            number, first = opened.execute(
                "SELECT row, first_description FROM experts WHERE id = ?", (card.id,)
            ).fetchone()
            kept.write(np.array([number]), np.array([first]), embedded)
            set_embedded(opened, encoder.key, number + 1)
