"""The descriptions of a zoo's experts as one generator reads them, and the experts that are nearest to one of them."""

from dataclasses import dataclass
from functools import cached_property

from loragen.conditions.condition import Condition, Conditioner, Evidence
from loragen.conditions.text_encoder import TextEncoder
from loragen.errors import ZooError
from loragen.generators.base import Generator
from loragen.zoo.expert_index import ExpertIndex, mean_direction
from loragen.zoo.zoo import Zoo


@dataclass(frozen=True, eq=False)
class Conditions:
    """Conditions of a zoo's descriptions, for one generator."""

    generator: Generator
    zoo: Zoo
    encoder: TextEncoder

    def of(self, expert: str) -> list[Condition]:
        """Those of an expert, one a description, made of the description alone.

        Raises:
            ZooError: the zoo has no such expert.
            GeneratorError: something that the reading needs is missing.
        """
        own = self.zoo.adapter(expert) if self._reads_own_adapters else None
        texts = self.zoo.card(expert).descriptions
        return [self._conditioner.condition(Evidence(text, own_adapter=own)) for text in texts]

    @cached_property
    def _conditioner(self) -> Conditioner:
        return Conditioner(self.encoder, self.generator.reading, self.generator.evidence)

    @property
    def _reads_own_adapters(self) -> bool:
        reading = self.generator.reading
        return reading is not None and reading.through == "own_adapter"


def similarities(expert: str, owner: Zoo, others: ExpertIndex, encoder: TextEncoder) -> dict[str, float]:
    """Cosines of an expert's descriptions and those of other experts, the nearest first.

    Args:
        expert: the one that others are compared with.
        owner: the experts that it is one of.
        others: those that are compared; itself does not count.
        encoder: of descriptions.

    Raises:
        ZooError: there is no other.
    """
    query = mean_direction(encoder.encode(list(owner.card(expert).descriptions)))
    hits = others.index.search(query, len(others.zoo), exclude={expert})
    if not hits:
        raise ZooError(f"{expert} is the only expert of {others.zoo.root}; none would remain.")
    return {hit.id: hit.similarity for hit in hits}
