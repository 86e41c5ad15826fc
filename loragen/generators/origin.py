"""What a generator was trained on, beside what its zoo holds now.

A generator names the fingerprint of the experts that it was trained on. It still fits a zoo that has changed since if
those of its experts that are there are the same to the byte. Hashes of those that are gone stand in the zoo's log, so
that the fingerprint can be taken again.
"""

from collections.abc import Collection, Mapping
from typing import Protocol

from loragen.errors import GeneratorError, cut
from loragen.generators.behind import Behind
from loragen.zoo.changes import fingerprint_of, read_changes
from loragen.zoo.zoo import Zoo

MOST_STATES = 100
"""States of the zoo before now whose fingerprints are compared."""


class Origin(Protocol):
    """What a generator states of the experts that it was trained on."""

    @property
    def zoo_hash(self) -> str:
        """Their fingerprint."""


def behind_of(
    manifest: Origin,
    seen: Collection[str],
    experts: Zoo,
    *,
    forgotten: Mapping[str, str] | None = None,
    what: str = "The generator",
) -> Behind | None:
    """What a generator, or a part of one, has missed of a zoo; `None` where that is nothing.

    Args:
        manifest: of the generator.
        seen: ids of the experts that it was trained on, with those that it has forgotten or without.
        experts: those of the zoo that generators draw on.
        forgotten: experts that it has forgotten, with the hashes of their adapters: the zoo may have them or not.
        what: what a message calls it.

    Raises:
        GeneratorError: an expert that it was trained on has been changed, is not in the zoo, and neither in its log, or
            none of them is left.
    """
    lost = forgotten or {}
    if manifest.zoo_hash == experts.fingerprint and not lost:
        return None
    there = experts.hashes
    then = _then(manifest.zoo_hash, {*seen, *lost}, experts, lost)
    if then is None or any(there.get(name, value) != value for name, value in then.items()):
        raise GeneratorError(
            f"{what} was trained on other experts (hash {manifest.zoo_hash[:12]}) than those of {cut(experts.root)} "
            f"({experts.fingerprint[:12]}); train it again with `loragen train`."
        )
    gone = tuple(sorted(then.keys() - there.keys() - lost.keys()))
    if not then.keys() & there.keys():
        raise GeneratorError(
            f"{what} was trained on experts of which {cut(experts.root)} has none any more; train it again with "
            "`loragen train`."
        )
    unseen = tuple(sorted(there.keys() - then.keys()))
    return Behind(unseen=unseen, gone=gone) if unseen or gone else None


def _then(fingerprint: str, seen: Collection[str], experts: Zoo, lost: Mapping[str, str]) -> Mapping[str, str] | None:
    """Hashes of the experts that a generator has seen, as they were then; `None` where they are not known.

    The log is gone back, change by change, until they have its fingerprint.
    """
    wanted, there = frozenset(seen), experts.hashes
    known = {**there, **lost}
    hashes = {name: known[name] for name in wanted if name in known}
    if len(hashes) == len(wanted) and fingerprint_of(hashes) == fingerprint:
        return hashes
    states = 0
    for change in reversed(read_changes(experts.root)):
        if change.id not in wanted or change.what == "found":
            continue
        if change.what == "removed":
            hashes[change.id] = change.sha256
        else:
            hashes.pop(change.id, None)
        if len(hashes) == len(wanted):
            if fingerprint_of(hashes) == fingerprint:
                return hashes
            states += 1
            if states == MOST_STATES:
                break
    return None
