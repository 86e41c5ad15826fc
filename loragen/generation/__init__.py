"""Evidence in, adapters out: the one way from a zoo to a finished adapter, which all callers share."""

from loragen.generation.generate import generate, generate_samples
from loragen.generation.pipeline import ENCODER, MOST_SAMPLES, Pipeline

__all__ = ["ENCODER", "MOST_SAMPLES", "Pipeline", "generate", "generate_samples"]
