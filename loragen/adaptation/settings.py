"""Settings of self-training on unlabelled texts, as cards hold them."""

from pydantic import Field

from loragen.config import StrictModel
from loragen.recipes.few_shot_settings import FewShotRecipe
from loragen.values import MOST_EXAMPLES


class AdaptRecipe(StrictModel):
    """Settings of self-training, chosen on validation tasks and tasks left out of zoos (`left_out_reads.py`)."""

    share: float = Field(0.5, gt=0, le=1)
    """Part of the texts of each class that the fit sees: those whose pseudo-labels are surest."""
    most: int = Field(1000, ge=20, le=MOST_EXAMPLES)
    """Texts that the fit sees at most; it takes no longer for more, but the surest of many are all alike."""
    strength: float = Field(0.5, gt=0, le=1)
    """Part of the way from the adapter to its fit: half of it keeps the gains and spares most of the losses."""
    fit: FewShotRecipe = FewShotRecipe(steps=15, window=5)
