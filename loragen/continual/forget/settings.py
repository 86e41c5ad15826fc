"""Settings of edits by which a generator forgets an expert, or an adapter some classes."""

from pydantic import Field

from loragen.config import StrictModel
from loragen.values import LARGEST_LAYER, MOST_EXAMPLES, MOST_PARTS, MOST_STEPS, Seed


class EditSettings(StrictModel):
    """What all edits have in common (GS-LoRA, arXiv 2501.09705)."""

    rank: int = Field(8, ge=1, le=LARGEST_LAYER)
    """Of the change of a layer, or less where the layer is smaller."""
    steps: int = Field(300, ge=10, le=MOST_STEPS)
    """Optimiser steps."""
    learning_rate: float = Field(1.0, gt=0)
    """Length of the first step, over all layers; see `GroupDescent`."""
    penalty: float = Field(0.2, ge=0)
    """The paper's alpha, weight of the layers' norms, in units of the norm of the loss's first gradient: the more of
    it, the more layers stay exactly as they were. Halved, and halved again, where nothing would change at all."""
    forget_weight: float = Field(1.0, ge=0)
    """Its beta: weight of what is to be forgotten."""
    average_from: float = Field(0.3, ge=0, lt=1)
    """Share of the steps after which the factors' running mean begins."""
    average: float = Field(0.9, ge=0, lt=1)
    """Share of the running mean that a step keeps."""
    seed: Seed = 0


class ForgetSettings(EditSettings):
    """Of edits of generators."""

    bound: float | None = Field(None, gt=0)
    """BND: error up to which what is generated for the forgotten expert is pushed away; by default the error
    of the merge of its nearest others, which has not seen it (`bound_of`)."""
    prototype_forget: float = Field(0.03, ge=0)
    """w_f of GS-LoRA++: away from the mean of what the generator gave for the forgotten expert before."""
    prototype_remain: float = Field(0.03, ge=0)
    """w_r of GS-LoRA++: near to the mean of what it gave for each remaining expert before."""
    top_k: int = Field(8, ge=1, le=MOST_EXAMPLES)
    """Experts of that merge."""
    temperature: float = Field(0.1, gt=0)
    """Of its weights."""
    remaining: int = Field(128, ge=1, le=MOST_EXAMPLES)
    """Remaining experts that take part: the nearest half, and others drawn at random."""
    batch_size: int = Field(32, ge=1, le=MOST_EXAMPLES)
    """Descriptions of remaining experts a step."""
    draws: int = Field(2, ge=1, le=MOST_EXAMPLES)
    """Of each description of the forgotten expert a step."""
    spared: int = Field(0, ge=0, le=MOST_PARTS)
    """Descriptions of the expert, its last ones, that judge the edit and take no part in it; at least one does."""


class ClassSettings(EditSettings):
    """Of edits of adapters by which these forget some classes."""

    bound: float | None = Field(None, gt=0)
    """BND: cross-entropy, in nats, up to which examples of forgotten classes are pushed; by default that of a guess,
    log C of C classes."""
    steps: int = Field(60, ge=10, le=MOST_STEPS)
    learning_rate: float = Field(3.0, gt=0)
    penalty: float = Field(0.1, ge=0)
    batch_size: int = Field(16, ge=2, le=MOST_EXAMPLES)
    """Examples of the forgotten classes a step, and as many of the others."""
    held_out: float = Field(0.3, gt=0, lt=1)
    """Share of the examples that judge the edit and take no part in it."""
