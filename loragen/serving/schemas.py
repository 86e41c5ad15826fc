"""What requests hold. Sizes are checked where the limits are known; unknown keys of our own routes are refused."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from loragen.values import Name, Seed

Text = Annotated[str, Field(min_length=1, max_length=1_000_000)]

Stops = Annotated[str, Field(max_length=1_000)] | Annotated[list[str], Field(max_length=16)] | None
"""Texts that end what is written: each is looked for after every token."""


class Strict(BaseModel):
    """A request of our own convention: keys that we do not know are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Example(Strict):
    """A text with its label."""

    text: Text
    label: Text


class NewAdapter(Strict):
    """An adapter to be generated."""

    description: Text
    """Of the task, in words."""
    name: Name | None = None
    """To keep it under; by default made from the description."""
    labels: list[Text] | None = None
    """Names of the task's labels."""
    texts: list[Text] | None = None
    """Texts of the task that nobody has labelled, to adapt to; wants labels."""
    shares: list[float] | None = None
    """How large the classes are among the texts."""
    examples: list[Example] | None = None
    """Labelled texts, to fit to."""
    history: list[Text] | None = None
    """Past texts of the person that the adapter is for."""
    generator: Name | None = None
    """By default the server's."""
    seed: Seed = 0
    samples: int = Field(1, ge=1)
    """Adapters to draw; from the second on names end in their number."""
    fallback: bool = True
    """Give something safer out where nothing is expected of the generator's adapter."""
    replace: bool = False
    """Take the place of adapters of the same name."""


class Loose(BaseModel):
    """A request of another's convention: keys that we do not know are passed over, as those who made it do."""

    model_config = ConfigDict(extra="ignore", frozen=True, allow_inf_nan=False)


class EmbeddingsRequest(Loose):
    """OpenAI's."""

    input: str | list[str] | list[int] | list[list[int]]
    model: str
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: int | None = Field(None, ge=1)
    user: str | None = None


class WritingRequest(Loose):
    """What OpenAI's two requests to write have in common; what is written has one choice."""

    model: str
    temperature: float | None = Field(1.0, ge=0, le=2)
    top_p: float | None = Field(1.0, gt=0, le=1)
    n: Literal[1] | None = 1
    stream: bool | None = False
    stop: Stops = None
    seed: int | None = None


class CompletionRequest(WritingRequest):
    """OpenAI's, for prompts."""

    prompt: str | list[str]
    max_tokens: int | None = Field(16, ge=1)


class Message(Loose):
    """A turn of a chat."""

    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[dict[str, Any]]


class ChatRequest(WritingRequest):
    """OpenAI's, for chats."""

    messages: list[Message] = Field(min_length=1)
    max_tokens: int | None = Field(None, ge=1)
    max_completion_tokens: int | None = Field(None, ge=1)


class EmbedRequest(Loose):
    """TEI's, with the adapter's name beside."""

    inputs: str | list[str]
    normalize: bool = True
    truncate: bool = True
    model: str | None = None


class PredictRequest(Loose):
    """TEI's, with the adapter's name and labels beside."""

    inputs: str | list[str] | list[list[str]]
    raw_scores: bool = False
    truncate: bool = True
    model: str | None = None
    labels: list[str] | None = None


class RerankRequest(Loose):
    """TEI's, with the adapter's name beside."""

    query: str
    texts: list[str]
    raw_scores: bool = False
    return_text: bool = False
    truncate: bool = True
    model: str | None = None


class SimilarityInputs(Loose):
    """A sentence and those to compare it with."""

    source_sentence: str
    sentences: list[str]


class SimilarityRequest(Loose):
    """TEI's, with the adapter's name beside."""

    inputs: SimilarityInputs
    model: str | None = None
