"""The checks of `recipes.py`, one a claim: what is compared, and when the claim holds."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from recipe_lab import BANK, EMOTION, INTENTS, OPINION, QUESTION, RATES, REVIEW, Lab
from recipe_sequences import forgetting_of_heads, forgetting_of_sequences

from loragen.adapters.combine import weighted_sum
from loragen.adapters.prefix import prefix
from loragen.adapters.squeeze import squeeze

PLAIN = {"name": "lora_both"}


@dataclass(frozen=True)
class Outcome:
    """What came out of a check."""

    holds: bool
    figures: Mapping[str, float | str]


@dataclass(frozen=True)
class Check:
    """A claim and how it is tried."""

    claim: str
    run: Callable[[Lab], Outcome]


def _points(value: float) -> str:
    return f"{value:.3f}"


def lora_sb(lab: Lab) -> Outcome:
    """LoRA-SB: r² numbers a site."""
    ids = (QUESTION, BANK, EMOTION)
    own = lab.mean_of(ids, {"name": "lora_sb", "r": 16})
    plain = lab.mean_of(ids, PLAIN)
    return Outcome(own >= plain - 0.015, {"LoRA-SB, r = 16": _points(own), "LoRA, r = 4": _points(plain)})


def label_head(lab: Lab) -> Outcome:
    """LingoCL: frozen label texts as the head."""
    ids = (OPINION, QUESTION, INTENTS)
    frozen, moving = (lab.mean_of(ids, {"name": name}) for name in ("label_head", "lora"))
    return Outcome(frozen >= moving - 0.01, {"frozen targets": _points(frozen), "moving": _points(moving)})


def lingo_sequence(lab: Lab) -> Outcome:
    """LingoCL's sequence: five domains one after the other."""
    lost, figures = {}, {}
    for kind, heads in (("label texts", "label texts"), ("random", "random heads")):
        lost[kind], at_end = forgetting_of_heads(lab, kind)
        figures |= {f"forgetting, {heads}": _points(lost[kind]), f"accuracy at the end, {heads}": _points(at_end)}
    return Outcome(lost["label texts"] < lost["random"], figures)


def lora_ga(lab: Lab) -> Outcome:
    """LoRA-GA: sooner at the same loss."""
    figures: dict[str, float | str] = {}
    holds = True
    for task in (QUESTION, OPINION):
        plain = lab.best(task, PLAIN).losses[20]
        for flavour in ("paper", "peft"):
            made = lab.best(task, {"name": "lora_ga", "flavour": flavour})
            figures[f"{task}, {flavour}: loss at step 20"] = f"{made.losses[20]:.3f} (LoRA {plain:.3f})"
            holds &= made.losses[20] < plain
    return Outcome(holds, figures)


def sora(lab: Lab) -> Outcome:
    """SoRA: ranks that nothing needs fall away."""
    found = lab.best(QUESTION, {"name": "sora", "r": 16})
    plain = lab.best(QUESTION, PLAIN | {"r": 8})
    figures = {"mean rank of 16": f"{found.rank:.1f}", "SoRA": _points(found.accuracy)}
    holds = found.rank <= 8 and found.accuracy >= plain.accuracy - 0.01
    return Outcome(holds, figures | {"LoRA, r = 8": _points(plain.accuracy)})


def codyra(lab: Lab) -> Outcome:
    """CoDyRA's sequence."""
    ids = (QUESTION, OPINION, INTENTS)
    gated, gated_last, ranks = forgetting_of_sequences(lab, ids, {"name": "codyra", "r": 16})
    plain, plain_last, _ = forgetting_of_sequences(lab, ids, PLAIN | {"r": 16})
    figures = {
        "forgetting, CoDyRA": _points(gated),
        "forgetting, LoRA": _points(plain),
        "last task, CoDyRA": _points(gated_last),
        "last task, LoRA": _points(plain_last),
        "ranks of sites": f"{min(ranks)} to {max(ranks)}",
    }
    return Outcome(gated <= plain and gated_last >= plain_last - 0.02 and min(ranks) < max(ranks), figures)


def dylora(lab: Lab) -> Outcome:
    """DyLoRA: any prefix is an adapter."""
    task = lab.tasks[QUESTION]
    nested, plain = (lab.best(QUESTION, one | {"r": 8}, RATES) for one in ({"name": "dylora"}, PLAIN))
    figures: dict[str, float | str] = {}
    ahead = []
    for rank in (1, 2, 4):
        cut = lab.accuracy(task, prefix(nested.adapter, rank))
        rival = lab.accuracy(task, prefix(plain.adapter, rank, rescaled=False))
        figures[f"first {rank}"] = f"{cut:.3f} (LoRA {rival:.3f})"
        ahead.append(cut - rival)
    figures["all 8"] = f"{nested.accuracy:.3f} (LoRA {plain.accuracy:.3f})"
    return Outcome(sum(ahead) / 3 >= 0.03 and nested.accuracy >= plain.accuracy - 0.015, figures)


def allora(lab: Lab) -> Outcome:
    """ALLoRA: few steps, little data."""
    ids = (OPINION, REVIEW)
    scaled, plain = lab.mean_of(ids, {"name": "allora"}), lab.mean_of(ids, PLAIN)
    return Outcome(scaled >= plain - 0.005, {"ALLoRA": _points(scaled), "LoRA": _points(plain)})


def altlora(lab: Lab) -> Outcome:
    """AltLoRA: loss after as many steps."""
    plain = lab.best(QUESTION, PLAIN).losses[60]
    figures: dict[str, float | str] = {"LoRA": f"{plain:.3f}"}
    found = []
    for second in (False, True):
        made = lab.best(QUESTION, {"name": "altlora", "second_moment": second}, rates=(1e-3, 3e-3, 1e-2, 3e-2, 1e-1))
        figures["AltLoRA+" if second else "AltLoRA"] = f"{made.losses[60]:.3f}"
        found.append(made.losses[60])
    return Outcome(min(found) <= plain, figures)


def squeezed(lab: Lab) -> Outcome:
    """LoRA-Squeeze: trained high, kept low."""
    figures: dict[str, float | str] = {}
    ids = (QUESTION, BANK)
    plain = lab.mean_of(ids, PLAIN)
    found = {
        stage: lab.mean_of(ids, {"name": "squeeze", "source_rank": 16, "stage": stage})
        for stage in ("post", "continued", "in")
    }
    figures |= {stage: _points(value) for stage, value in found.items()}
    return Outcome(found["continued"] >= plain - 0.005, figures | {"LoRA, r = 4": _points(plain)})


def squeezed_sum(lab: Lab) -> Outcome:
    """A sum of three experts, squeezed."""
    ids = (QUESTION, OPINION, BANK)
    experts = [lab.best(task, PLAIN).adapter for task in ids]
    whole = weighted_sum(experts, [1 / 3] * 3)
    small = squeeze(whole, rank=4)
    before, after = (
        sum(lab.accuracy(lab.tasks[task], adapter) for task in ids) / 3 for adapter in (whole, small.adapter)
    )
    figures = {"rank 12": _points(before), "rank 4": _points(after), "energy kept": f"{small.energy_kept:.2f}"}
    return Outcome(after >= before - 0.02, figures)


def loram(lab: Lab) -> Outcome:
    """LoRAM: trained on a pruned base, used on the whole."""
    found, plain = lab.best(QUESTION, {"name": "loram"}), lab.best(QUESTION, PLAIN)
    base = lab.accuracy(lab.tasks[QUESTION], None)
    figures = {
        "recovered": _points(found.accuracy),
        "base": _points(base),
        "LoRA": _points(plain.accuracy),
        "time of training": f"{found.seconds / plain.seconds:.2f} of LoRA's",
    }
    return Outcome(found.accuracy > base + 0.05 and found.accuracy >= plain.accuracy - 0.03, figures)


CHECKS = {
    "LoRA-SB": Check("r = 16 with 256 numbers a site: within 1.5 points of LoRA of rank 4, three tasks", lora_sb),
    "LingoCL": Check("frozen label texts within a point of moving ones, three tasks", label_head),
    "LingoCL, sequence": Check(
        "less is forgotten of five intent domains with label texts than with random heads, three seeds", lingo_sequence
    ),
    "LoRA-GA": Check("held-out loss at step 20 below LoRA's, two tasks", lora_ga),
    "SoRA": Check("from rank 16 to at most 8, within a point of LoRA of rank 8", sora),
    "CoDyRA": Check("three tasks in sequence: forgets no more than LoRA, last task within two points", codyra),
    "DyLoRA": Check("its first 1, 2 and 4 ranks 3 points above LoRA's, all 8 within 1.5", dylora),
    "ALLoRA": Check("within half a point of LoRA, two tasks", allora),
    "AltLoRA": Check("held-out loss at step 60 at most LoRA's", altlora),
    "LoRA-Squeeze": Check("from 16 to 4 with 20 more steps: within half a point of rank 4, two tasks", squeezed),
    "LoRA-Squeeze, sum": Check("a sum of three experts squeezed to rank 4 loses at most 2 points", squeezed_sum),
    "LoRAM": Check("recovered: 5 points above the base, within 3 of LoRA", loram),
}
