"""Brainstacks (arXiv 2604.01152): a router that learns from losses which experts help which text.

1. ``boost``: each expert is trained further on what it leaves of its task (`boosting`).
2. ``protect``: in their order, each expert is kept out of what those before it write (`null_space`).
3. For some labelled texts of each task the experts that lower the loss are found greedily (`discovery`).
4. A network over the bare base's tokens learns to tell them (`prompt_network`). Its targets are mostly what was found,
   and to a small part the expert of the text's own task.

In use the bare base reads each text first, the network weighs the experts, and those below a threshold are left out.
The published stacks are added up; experts of one zoo have much in common, so by default weights are divided by their
sum. Label texts are texts too, and are weighed by themselves; so the network also learns from each label, with the mean
target of its texts.
"""

from collections.abc import Mapping, Sequence

import torch
from pydantic import Field
from torch import Tensor

from loragen.adapters.adapter import Lora
from loragen.adapters.rank_gate import Gate
from loragen.bases.base import Base
from loragen.bases.tokenised import Input, TaskData, padded_rows, tokens_of
from loragen.compose.boosting import boosted
from loragen.compose.discovery import Outcomes, discover, measured
from loragen.compose.experts import Experts, SiteExperts
from loragen.compose.mixed import balanced, mixed
from loragen.compose.null_space import kept_out, protected_directions
from loragen.compose.prompt_network import PARTS, PromptBatch, PromptObjective, expert_logits, network_start
from loragen.compose.settings import ComposeSettings, Made, Making
from loragen.compose.text_rows import CurrentRows, Router
from loragen.errors import AdapterError
from loragen.training.schedule import Schedule
from loragen.values import LARGEST_LAYER, MOST_EXAMPLES, MOST_PARTS, MOST_STEPS, MOST_TOKENS


class Brainstacks(ComposeSettings):
    """Settings of Brainstacks."""

    texts: int = Field(40, ge=1, le=MOST_EXAMPLES)
    """Labelled texts of each task that outcomes are measured on."""
    most: int = Field(3, ge=1, le=MOST_PARTS)
    """Experts that one text can be found to want."""
    least_gain: float = Field(0.01, ge=0, le=100)
    """Nats by which an expert must lower a text's loss."""
    prior: float = Field(0.2, ge=0, le=1)
    """Part of the targets that is the expert of the text's own task; the rest is what was found."""
    normalise: bool = True
    """Divide the weights by their sum, and measure means of experts; or add experts up, as published."""
    threshold: float = Field(0.12, ge=0, lt=1)
    """Experts below it are left out."""
    width: int = Field(128, ge=1, le=LARGEST_LAYER)
    """Of the network; the paper's is 512."""
    epochs: int = Field(8, ge=1, le=MOST_STEPS)
    learning_rate: float = Field(8e-4, gt=0, le=1)
    batch_size: int = Field(16, ge=1, le=MOST_EXAMPLES)
    margin: float = Field(0.3, ge=0, le=1)
    """Wanted between the experts that help a text and the others."""
    margin_weight: float = Field(0.05, ge=0, le=100)
    max_length: int = Field(64, ge=8, le=MOST_TOKENS)
    """Tokens of a text."""
    boost: int = Field(0, ge=0, le=MOST_PARTS)
    """The most rounds that each expert is trained further, 3 in the paper; 0 leaves them as they are."""
    boost_steps: int = Field(60, ge=1, le=MOST_STEPS)
    boost_rank: int = Field(4, ge=1, le=LARGEST_LAYER)
    """Of each round."""
    boost_least_gain: float = Field(0.002, ge=0, le=100)
    """By which a round must lower the held-out loss."""
    boost_learning_rate: float = Field(5e-3, gt=0, le=1)
    protect: int = Field(0, ge=0, le=LARGEST_LAYER)
    """Directions of what earlier experts write that an expert is kept out of, 64 in the paper; 0 for none. At most as
    many are found as the ranks of the experts before it."""
    protect_texts: int = Field(400, ge=1, le=MOST_EXAMPLES)
    """Texts on which these are measured."""


def make_brainstacks(making: Making, settings: Brainstacks) -> Made:
    """Boost and separate the experts where that is wanted, measure outcomes, and train the network."""
    rng = making.rng()
    experts = _separated(making, _boosted(making, settings, rng), settings, rng)
    examples, owners = mixed(balanced(making.given_examples(), settings.texts, rng=rng))
    data = making.base.prepare(examples, max_length=settings.max_length)
    outcomes = discover(
        measured(making.base, experts, data, mean=settings.normalise),
        len(data),
        len(experts),
        least_gain=settings.least_gain,
        most=settings.most,
        progress=lambda done: making.progress("subsets of experts", done, done),
    )
    own = torch.nn.functional.one_hot(torch.tensor(owners), len(experts)).float()
    targets = (1 - settings.prior) * outcomes.targets(len(experts)) + settings.prior * own
    parts = _trained(making, data, targets, settings, rng)
    return Made(experts, tensors=parts, facts=_facts(outcomes))


def _facts(outcomes: Outcomes) -> dict[str, float]:
    sizes = [len(subset) for subset in outcomes.subsets]
    return {
        "gain of the greedy choice": round(outcomes.gain, 4),
        "experts a text wants": round(sum(sizes) / len(sizes), 3),
    }


def _boosted(making: Making, settings: Brainstacks, rng: torch.Generator) -> Experts:
    if not settings.boost:
        return making.experts
    made: list[Lora] = []
    for number, (lora, examples) in enumerate(zip(making.experts.loras, making.given_examples(), strict=True)):
        making.progress("boosting experts", number, len(making.experts))
        data = making.base.prepare(examples, max_length=settings.max_length)
        grown = boosted(
            lora,
            making.base,
            data,
            rounds=settings.boost,
            r=settings.boost_rank,
            steps=settings.boost_steps,
            batch_size=min(32, max(2, len(data))),
            learning_rate=settings.boost_learning_rate,
            least_gain=settings.boost_least_gain,
            rank=None,
            rng=rng,
        )
        made.append(grown.adapter)
    return Experts.of(made, making.experts.names)


def _separated(making: Making, experts: Experts, settings: Brainstacks, rng: torch.Generator) -> Experts:
    if not settings.protect:
        return experts
    whole, _ = mixed(making.given_examples())
    chosen = whole.subset(torch.randperm(len(whole), generator=rng)[: settings.protect_texts])
    texts = making.base.inputs(chosen, max_length=settings.max_length)
    made = [experts.loras[0]]
    for number, lora in enumerate(experts.loras[1:], 1):
        making.progress("separating experts", number, len(experts))
        made.append(kept_out(lora, protected_directions(making.base, made, texts, settings.protect)))
    return Experts.of(made, experts.names)


def _trained(
    making: Making, data: TaskData, targets: Tensor, settings: Brainstacks, rng: torch.Generator
) -> dict[str, Tensor]:
    """The network's tensors after training on the texts and on their labels."""
    from loragen.training.lightning_fit import fit

    labels = [label for label in range(len(data.label_ids)) if (data.targets == label).any()]
    rows = [*data.ids, *(data.label_ids[label] for label in labels)]
    wanted = torch.cat([targets, *(targets[data.targets == label].mean(0, keepdim=True) for label in labels)])
    drawn = [
        PromptBatch(*states_of(making.base, [rows[at] for at in some.tolist()]), wanted[some])
        for some in torch.split(torch.randperm(len(rows), generator=rng), settings.batch_size)
    ]
    hidden = drawn[0].states.shape[-1]
    objective = PromptObjective(
        network_start(hidden, targets.shape[1], settings.width, rng=rng),
        margin=settings.margin,
        margin_weight=settings.margin_weight,
    )
    schedule = Schedule(settings.epochs, len(drawn), settings.learning_rate)
    fit(objective, lambda _epoch: drawn, schedule, seed=making.seed)
    return {name: value.detach().cpu().clone() for name, value in objective.named().items()}


@torch.no_grad()
def states_of(base: Base, rows: Sequence[Input]) -> tuple[Tensor, Tensor]:
    """The bare base's last hidden states of some texts, (n, longest, hidden), and the mask of their tokens."""
    padded, lengths = padded_rows(tokens_of(rows), base.tokenizer.pad_token_id or 0)
    mask = torch.arange(padded.shape[1]) < lengths[:, None]
    hidden = base.body(input_ids=padded.to(base.device), attention_mask=mask.to(base.device)).last_hidden_state
    return hidden.float().cpu(), mask


def router_of(settings: Brainstacks, tensors: Mapping[str, Tensor]) -> Router:
    """The network as a router: weights (n, experts), 0 below the threshold."""
    parts = {name: tensors[name] for name in PARTS}

    def router(states: Tensor, mask: Tensor) -> Tensor:
        if states.shape[-1] != (wanted := parts["project"].shape[1]):
            raise AdapterError(
                f"The router reads {wanted} features of a token, and the base gives {states.shape[-1]}; it was made "
                "for another base model."
            )
        p = expert_logits(parts, states, mask).sigmoid()
        kept = p * (p >= settings.threshold)
        return kept / kept.sum(-1, keepdim=True).clamp_min(1e-6) if settings.normalise else kept

    return router


def brainstacks_gates(
    experts: Experts, _settings: Brainstacks, _tensors: Mapping[str, Tensor], current: CurrentRows
) -> dict[str, Gate]:
    """Site → gate: what the router gave the text."""
    return {site: _gate(at, current) for site, at in experts.sites.items()}


def _gate(at: SiteExperts, current: CurrentRows) -> Gate:
    def gate(x: Tensor, _coordinates: Tensor) -> Tensor:
        rows = current()
        assert rows.weights is not None
        return at.spread(rows.weights.to(x))[:, None]

    return gate


def brainstacks_shapes(experts: Experts, settings: Brainstacks) -> dict[str, tuple[int | None, ...]]:
    """Shapes of the tensors by name; None stands for the base's hidden size."""
    n, width = len(experts), settings.width
    shapes = ((width, None), (1 + n, width), (width, 2 * width), (width,), (n, width), (n,))
    return dict(zip(PARTS, shapes, strict=True))
