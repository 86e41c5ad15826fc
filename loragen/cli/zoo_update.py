"""`loragen zoo update`: what was made from a zoo before it changed."""

from typing import Annotated

import typer

from loragen.cli.generators import told, warn_of
from loragen.cli.options import ENCODER, EncoderOption, JsonOption, OwnZooOption


def zoo_update(
    zoo: OwnZooOption,
    train: Annotated[
        bool, typer.Option("--train", help="Train generators that are behind again, with the configs they keep.")
    ] = False,
    encoder: EncoderOption = ENCODER,
    as_json: JsonOption = False,
) -> None:
    """Bring a zoo's log and embeddings up to date, and say which generators are behind."""
    import loragen
    from loragen.cli import console

    with console.progress() as update:
        updated = loragen.update_zoo(zoo, train=train, encoder=encoder, progress=update)
    if as_json:
        facts = {"experts": updated.experts, "fingerprint": updated.fingerprint, "changed": updated.was_changed}
        console.say_json(facts | {"trained": updated.trained, "generators": told(updated.generators)})
        return
    if updated.was_changed:
        console.say("Experts had come or gone without a line in the log; it has one now.")
    for name in updated.trained:
        console.done(f"the generator {name} was trained again")
    console.done(f"{zoo}: {updated.experts:,} experts, log and embeddings up to date")
    warn_of(updated.generators)
    if any(one.sentence() for one in updated.generators):
        console.say("All of them at once, with the configs they keep: add --train.")
