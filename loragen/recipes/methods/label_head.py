"""Language-guided supervision (LingoCL, Ni et al. 2024): B over the zoo's A, against label texts that do not move.

In the default recipe label texts go through the adapted encoder, so that they move along with the texts. Here their
embeddings are the base's own: a frozen classifier, logits = 20 · cosine(text, label), in training and in scoring.
"""

from typing import Literal

from loragen.recipes.expert import ExpertRecipe


class LabelHead(ExpertRecipe):
    """Settings of training against frozen label texts; B alone is trained, by `train_lora`, so that the two compare."""

    name: str = "label_head"
    label_targets: Literal["frozen"] = "frozen"
    """Embeddings of label texts by the base alone."""
