"""`loragen zoo import`: adapters from elsewhere become experts of a zoo."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from loragen.cli.generators import warn_of
from loragen.cli.options import JsonOption, WithoutHeadOption, one_each

if TYPE_CHECKING:
    from loragen.zoo.import_adapters import ImportPlan


def zoo_import(
    sources: Annotated[
        list[str], typer.Argument(help="Adapter folders, or hub:ORG/NAME@COMMIT/SUBFOLDER.", show_default=False)
    ],
    zoo: Annotated[Path, typer.Option("--zoo", help="Folder of the zoo, new or there already.")],
    description: Annotated[
        list[str] | None,
        typer.Option(help="What an adapter is for, in the order of the adapters (default: what its model card says)."),
    ] = None,
    name: Annotated[list[str] | None, typer.Option("--id", help="Names of the experts, in the same order.")] = None,
    base: Annotated[str | None, typer.Option(help="Base model (default: the one the adapters name).")] = None,
    rank: Annotated[
        int | None, typer.Option(min=1, help="Rank of a new zoo's frame (default: what the adapters need).")
    ] = None,
    max_loss: Annotated[
        float, typer.Option(min=0, max=1, help="Share of an adapter's energy that the frame may lose.")
    ] = 0.05,
    without_head: WithoutHeadOption = False,
    as_json: JsonOption = False,
) -> None:
    """Bring adapters that were trained elsewhere into a zoo; they need not share rank, alpha or target modules."""
    descriptions = one_each(description, sources, "--description")
    names = one_each(name, sources, "--id")
    import loragen
    from loragen.cli import console

    with console.progress() as update:
        plan = loragen.import_adapters(
            sources,
            zoo,
            descriptions=descriptions,
            ids=names,
            base=base,
            rank=rank,
            max_loss=max_loss,
            without_head=without_head,
            progress=update,
        )
    _show(plan, zoo, as_json=as_json)


def _show(plan: "ImportPlan", zoo: Path, *, as_json: bool) -> None:
    from loragen.cli import console

    rank = max(len(a) for a in plan.frame.lora_A.values())
    pairs = list(zip(plan.adapters, plan.imported, strict=True))
    if as_json:
        console.say_json(
            {
                "zoo": str(zoo),
                "base": plan.manifest.base,
                "checked_against_base": plan.is_checked,
                "rank": rank,
                "sites": len(plan.frame.lora_A),
                "experts": [
                    {
                        "id": one.id,
                        "description": one.description,
                        "description_source": one.description_source,
                        "licence": one.licence,
                        "notes": one.notes,
                    }
                    | facts.model_dump(mode="json", exclude={"kind"})
                    for one, facts in pairs
                ],
            }
        )
        return
    console.table(
        f"{zoo}: frame of rank {rank} at {len(plan.frame.lora_A)} sites of {plan.manifest.base}",
        ("expert", "r", "energy lost", "sites it lacks", "description"),
        [
            (one.id, str(facts.r), f"{100 * (1 - facts.energy_kept):.2f} %", str(len(facts.missing)), one.description)
            for one, facts in pairs
        ],
        numbers=("r", "energy lost", "sites it lacks"),
    )
    if told := [one.id for one in plan.adapters if one.description_source == "model card"]:
        console.say(f"Descriptions of {', '.join(told)} are from model cards; give better ones with --description.")
    for one in plan.adapters:
        for note in one.notes:
            console.warn(f"{one.id}: {note}")
    if any(facts.missing for _, facts in pairs):
        console.say("Sites that an adapter lacks are zero in the zoo.")
    if not plan.is_checked:
        console.warn(
            f"The config of {plan.manifest.base} is not at hand: sites and shapes were compared with one another, not "
            "with the base."
        )
    import loragen

    warn_of(loragen.list_generators(zoo))
