"""Cards of generated adapters: where an adapter comes from, as YAML and as a Hugging Face model card."""

from collections.abc import Sequence
from importlib.metadata import version
from typing import TYPE_CHECKING, Literal, Protocol

from pydantic import Field

from loragen.adaptation.settings import AdaptRecipe
from loragen.adapters.settings import LoraSettings
from loragen.adapters.spec import AdapterSpec
from loragen.bases.auto_classes import auto_class
from loragen.bases.wording import Chat, LabelTargets, Wording, telling
from loragen.confidence.outlook import Outlook
from loragen.config import StrictModel
from loragen.escaping import markdown, markdown_code, python_literal, yaml_literal
from loragen.generators.behind import Missed
from loragen.recipes.few_shot_settings import FewShotRecipe, FitChoice
from loragen.tasks.words import is_blank
from loragen.values import MOST_EXAMPLES

if TYPE_CHECKING:
    from loragen.generators.base import Generation
    from loragen.zoo.zoo import Zoo


class Update(Protocol):
    """What the text of a card tells of an adapter."""

    @property
    def settings(self) -> LoraSettings:
        """Settings of its config."""

    @property
    def sites(self) -> tuple[str, ...]:
        """Names of the adapted modules."""

    @property
    def spec(self) -> AdapterSpec:
        """Those with their sizes."""

    def norm(self) -> float:
        """Frobenius norm over all delta weights."""


class Parent(StrictModel):
    """An expert that an adapter draws on."""

    id: str
    similarity: float
    weight: float
    licence: str
    origin: str


class HistoryUse(StrictModel):
    """A person's past texts that an adapter was generated from."""

    texts: int = Field(ge=1, le=MOST_EXAMPLES)
    """Number of them that were read."""
    labelled: bool
    """True if their labels were given."""
    pool: Literal["trained", "untrained"]
    """How they were pooled: by the pool that was trained on the zoo, or by their plain mean."""


class GeneratedCard(StrictModel):
    """Origin of a generated adapter."""

    description: str
    generator: str
    seed: int
    sample: int
    examples: int = 0
    """Number of the task's texts that it was made from, beside the description."""
    labels: tuple[str, ...] = ()
    """Names of the task's labels, where they were given."""
    fitted: FewShotRecipe | None = None
    """Settings of its fit to the examples, after it was generated; `None` where it was not fitted."""
    texts: int = Field(0, ge=0, le=MOST_EXAMPLES)
    """Number of the task's texts that it was adapted to without their labels, or judged by."""
    adapted: AdaptRecipe | None = None
    """Settings of its self-training on those; `None` where it was not adapted."""
    outlook: Outlook | None = None
    """What was said of it when it was made."""
    choice: FitChoice | None = None
    """How far it was fitted, where cross-validation within the examples chose that."""
    wording: Wording | None = None
    """How the task is put to a language model; `None` for other bases, and on older cards."""
    label_targets: LabelTargets = "moving"
    """What texts are compared with: see `ExpertRecipe`."""
    best_of: int | None = Field(None, ge=1, le=MOST_EXAMPLES)
    """Number of adapters that were drawn, where it was kept as one of the best on the examples."""
    history: HistoryUse | None = None
    """The person's past texts that it was generated from; `None` where none were given."""
    behind: Missed | None = None
    """What the generator had missed of the zoo; `None` where that is nothing."""
    edits: tuple[str, ...] = ()
    """Experts that the generator had forgotten by edits, in their order."""
    base: str
    base_hash: str
    zoo: str
    zoo_hash: str
    encoder: str
    encoder_hash: str
    parents: tuple[Parent, ...]
    versions: dict[str, str]


def card_of(
    generation: "Generation",
    zoo: "Zoo",
    *,
    description: str,
    generator: str,
    seed: int,
    sample: int,
    examples: int = 0,
    labels: Sequence[str] = (),
    fitted: FewShotRecipe | None = None,
    texts: int = 0,
    adapted: AdaptRecipe | None = None,
    outlook: Outlook | None = None,
    choice: FitChoice | None = None,
    best_of: int | None = None,
    history: HistoryUse | None = None,
    behind: Missed | None = None,
    edits: Sequence[str] = (),
    told: bool = False,
    encoder: str,
    encoder_hash: str,
) -> GeneratedCard:
    """Describe a generation; experts with no weight are left out, and ``told`` puts the description in the prompts."""
    from loragen.bases.open import KINDS

    recipe = zoo.manifest.recipe
    wording = telling(recipe.wording, description) if told else recipe.wording
    parents = tuple(
        Parent(
            id=n.id,
            similarity=round(n.similarity, 4),
            weight=round(n.weight, 4),
            licence=zoo.card(n.id).licence,
            origin=zoo.card(n.id).origin,
        )
        for n in generation.neighbours
        if n.weight != 0
    )
    return GeneratedCard(
        description=description,
        generator=generator,
        seed=seed,
        sample=sample,
        examples=examples,
        labels=tuple(labels),
        fitted=fitted,
        texts=texts,
        adapted=adapted,
        outlook=outlook,
        choice=choice,
        best_of=best_of,
        history=history,
        behind=behind,
        edits=tuple(edits),
        wording=wording if KINDS[recipe.objective].writes_text else None,
        label_targets=recipe.label_targets,
        base=zoo.manifest.base,
        base_hash=zoo.manifest.base_hash,
        zoo=zoo.manifest.name,
        zoo_hash=zoo.fingerprint,
        encoder=encoder,
        encoder_hash=encoder_hash,
        parents=parents,
        versions={name: version(name) for name in ("loragen", "torch")},
    )


def model_card(card: GeneratedCard, adapter: Update) -> str:
    """A Hugging Face model card in Markdown, for the adapter's folder."""
    kind = auto_class(adapter.settings.task_type)
    return f"""---
{_header(card.base, library="peft", tags=("lora", "loragen", "generated"))}---

# LoRA for: {markdown(_title(card))}

Generated by loragen {markdown(card.versions.get("loragen", ""))} from {_evidence(card)}.

- update: rank {_rank(adapter)} at {len(adapter.sites)} sites, Frobenius norm {adapter.norm():.3f}
{_facts(card)}

```python
from peft import PeftModel
from transformers import {kind}

model = PeftModel.from_pretrained({kind}.from_pretrained({python_literal(card.base)}), "path/to/this/folder")
```

{_parents(card)}
"""


def merged_card(base: str, adapter: Update, card: GeneratedCard | None) -> str:
    """A Hugging Face model card in Markdown, for a base with an adapter merged into it."""
    title = f"{base} with a LoRA for: {_title(card)}" if card else f"{base} with a LoRA"
    origin = f"{_facts(card)}\n\n{_parents(card)}\n" if card else ""
    return f"""---
{_header(base, library="transformers", tags=("loragen", "merged"))}---

# {markdown(title)}

The base model {markdown_code(base)} with an adapter merged into its weights by loragen {version("loragen")}: rank
{_rank(adapter)} at {len(adapter.sites)} sites, Frobenius norm {adapter.norm():.3f}. Tokenizer, pooling and all other
files are the base's, and its licence applies to them and to its weights.

{origin}"""


def _title(card: GeneratedCard) -> str:
    """What an adapter is for, in words."""
    return "a person's history" if is_blank(card.description) else card.description


def _header(base: str, *, library: str, tags: Sequence[str]) -> str:
    listed = "".join(f"- {tag}\n" for tag in tags)
    return f"base_model: {yaml_literal(base)}\nlibrary_name: {library}\ntags:\n{listed}"


def _rank(adapter: Update) -> int:
    return max(site.r for site in adapter.spec.sites)


def _facts(card: GeneratedCard) -> str:
    labels = f"\n- labels of the task: {', '.join(map(markdown, card.labels))}" if card.labels else ""
    outlook = f"\n- outlook: {markdown(card.outlook.sentence())}" if card.outlook else ""
    forgotten = f", which has forgotten {', '.join(map(markdown, card.edits))}" if card.edits else ""
    embedded = f"descriptions embedded by {markdown_code(card.encoder)}"
    system = card.wording.system if isinstance(card.wording, Chat) else None
    said = f"\n- prompts: each begins with the system turn {markdown_code(system)}{labels}" if system else labels
    return f"""- generator: {markdown_code(card.generator)}, seed {card.seed}, sample {card.sample}{forgotten}
- base model: {markdown_code(card.base)}{f" (weights {markdown(card.base_hash[:12])})" if card.base_hash else ""}
- zoo: {markdown_code(card.zoo)} ({markdown(card.zoo_hash[:12])}), {embedded}{_missed(card.behind)}{said}{outlook}"""


def _missed(behind: Missed | None) -> str:
    if behind is None:
        return ""
    told = {f"{behind.unseen} had come since": behind.unseen, f"{behind.gone} had gone": behind.gone}
    return f"\n- experts of the zoo since the generator was trained: {', '.join(what for what in told if told[what])}"


def _parents(card: GeneratedCard) -> str:
    licences = sorted({parent.licence for parent in card.parents})
    rows = "\n".join(
        f"| {markdown(p.id)} | {p.similarity:.3f} | {p.weight:.3f} | {markdown(p.licence)} | {markdown(p.origin)} |"
        for p in card.parents[:20]
    )
    more = f"\n\n{len(card.parents) - 20} further experts are in `card.yaml`." if len(card.parents) > 20 else ""
    return f"""## Experts it draws on

| expert | similarity | weight | licence of its data | source |
|---|---|---|---|---|
{rows}{more}

Licences of the data behind these experts: {markdown("; ".join(licences))}."""


def _evidence(card: GeneratedCard) -> str:
    """What an adapter was made from, and how."""
    best = f", as the best on these of {card.best_of} that were drawn" if card.best_of else ""
    used = card.history
    parts = [f"{used.texts} past texts of a person{' with labels' if used.labelled else ''}"] if used else []
    parts += [f"{card.examples} examples of the task{best}"] if card.examples else []
    parts += [f"{card.texts} of its texts without labels"] if card.texts else []
    steps = [_fit(card.fitted, card.choice)] if card.fitted else []
    steps += [f"adapted to the texts in {card.adapted.fit.steps} steps"] if card.adapted else []
    described = [] if is_blank(card.description) else ["the description above"]
    sources = " and ".join(described + parts) + ("" if parts else ", without data of the task")
    pooled = f", pooled by {'a trained pool' if used.pool == 'trained' else 'their plain mean'}" if used else ""
    return f"{sources}{pooled}: {'then ' + ' and '.join(steps) if steps else 'no training'}"


def _fit(recipe: FewShotRecipe, choice: FitChoice | None) -> str:
    if choice is None:
        return f"fitted to the examples in {recipe.steps} steps"
    if choice.strength == 0:
        return "left so, since cross-validation within the examples preferred that to every fit"
    part = "" if choice.strength == 1 else f", {choice.strength:g} of the way"
    return f"fitted to the examples in {choice.steps} steps{part}, as cross-validation within them chose"
