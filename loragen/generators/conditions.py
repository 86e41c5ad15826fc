"""Makes conditions: what a generator is told of a task, from a description and what else is at hand."""

from dataclasses import dataclass
from functools import cached_property

from loragen.adapter import Adapter
from loragen.embedding import TextEncoder
from loragen.errors import GeneratorError
from loragen.generators.base import AdapterGenerator, Condition
from loragen.task_vectors import Reader, Reading, Support


@dataclass(frozen=True)
class Conditioner:
    """Makes the conditions of one generator; the model behind its task vectors is loaded when it is first needed."""

    encoder: TextEncoder
    reading: Reading | None

    @classmethod
    def of(cls, generator: AdapterGenerator, encoder: TextEncoder) -> "Conditioner":
        """For a generator and the zoo's text encoder."""
        return cls(encoder, generator.reading)

    def condition(
        self, description: str, *, support: Support | None = None, own_adapter: Adapter | None = None
    ) -> Condition:
        """The condition of a task.

        Args:
            description: of the task.
            support: a few of its texts, with labels or without.
            own_adapter: an adapter trained on the very task, for generators that follow a paper in needing one.

        Raises:
            GeneratorError: the generator cannot use what is given, or lacks what it needs.
        """
        embedding = self.encoder.encode([description])[0]
        if self.reading is None:
            if support is not None:
                raise GeneratorError("This generator reads the description alone; examples apply to icm.")
            return Condition(description, embedding, own_adapter=own_adapter)
        through = self.reading.through == "own_adapter"
        if through and own_adapter is None:
            raise GeneratorError(
                "This generator reads its condition through an adapter trained on the very task, as the published code "
                "does, and none was given; give one with --own-adapter, or use a generator with 'through: base'."
            )
        vectors = self._reader.task_vectors(description, support, own_adapter if through else None)
        return Condition(description, embedding, vectors, own_adapter)

    @cached_property
    def _reader(self) -> Reader:
        assert self.reading is not None
        return Reader.load(self.reading)
