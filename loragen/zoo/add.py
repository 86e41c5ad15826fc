"""Takes one expert into a zoo that is there, whole or not at all."""

import numpy as np

from loragen.adapters.adapter import Lora
from loragen.conditions.text_encoder import TextEncoder
from loragen.errors import ZooError, cut
from loragen.locks import lock
from loragen.recipes.registry import row_of
from loragen.zoo.card import CARD, EXPERTS, Card
from loragen.zoo.card_table import TABLE, Place, insert, last_place, set_embedded, writing
from loragen.zoo.embedding_table import EmbeddingTable
from loragen.zoo.shards import ShardedExperts, file_hash, write_row
from loragen.zoo.zoo import Zoo


def add_expert(zoo: Zoo, card: Card, adapter: Lora, *, encoder: TextEncoder | None = None) -> Zoo:
    """Add an expert to a zoo; one process at a time adds, and one that is killed leaves the zoo before or after.

    In a packed zoo one row of a shard and of the table are written, and the embeddings, however many experts there are.
    Generators that were trained on the zoo are then of another zoo.

    Args:
        zoo: the zoo, whole or a selection.
        card: of the expert.
        adapter: over the A of the zoo's experts, with their settings and type.
        encoder: embeds descriptions; where the zoo keeps embeddings by it, the expert's is kept too. Otherwise they are
            computed when the zoo is searched next.

    Returns:
        The whole zoo as it is now.

    Raises:
        ZooError: there is an expert of that name, or this one does not fit the zoo.
        ConfigError: another process writes there.
    """
    with lock(zoo.root):
        here = Zoo.open(zoo.root)
        if card.id in here.cards:
            raise ZooError(f"The zoo {cut(zoo.root)} has an expert {card.id} already; give another name.")
        if (card.base, card.base_hash) != (here.manifest.base, here.manifest.base_hash):
            raise ZooError(
                f"The expert {card.id} is of the base {cut(card.base)} ({card.base_hash[:12]}), the zoo of "
                f"{cut(here.manifest.base)} ({here.manifest.base_hash[:12]}); add it to a zoo of its own base."
            )
        if adapter.norm() == 0:
            raise ZooError(f"All delta weights of the expert {card.id} are zero; it does nothing. Train it again.")
        if here.sharded is None:
            _add_folder(here, card, adapter)
        else:
            _add_row(here, here.sharded, card, adapter, encoder)
    return Zoo.open(zoo.root)


def _add_folder(zoo: Zoo, card: Card, adapter: Lora) -> None:
    if zoo.ids:
        reference = zoo.adapter(zoo.ids[0]).spec
        difference = adapter.spec.difference(reference, in_rank=row_of(zoo.manifest.recipe).keeps_frame)
        if difference:
            raise ZooError(f"The expert {card.id} does not fit the zoo {cut(zoo.root)}: {difference}")
    adapter.save(zoo.root / EXPERTS / card.id, extra_files={CARD: card.to_yaml()}, replace=False)


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
