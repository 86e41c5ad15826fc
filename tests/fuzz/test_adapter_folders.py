"""Adapter folders: read as PEFT reads them, or refused."""

from hypothesis import event, given, settings

from fuzz.adapters import folders
from fuzz.harness import examples, outcome
from fuzz.peft_oracle import difference, peft_deltas
from fuzz.plain import SHAPES
from loragen.adapters.adapter import Lora
from loragen.adapters.settings import LoraSettings


def read(folder):
    """An adapter with what is worked out from it."""
    adapter = Lora.load(folder)
    adapter.norm()
    assert LoraSettings.from_config(adapter.settings.to_config()).base == adapter.settings.base
    return adapter


def compare(mutant, folder):
    """Read a folder, and where PEFT reads it too, compare.

    What is taken under other names than PEFT's is compared as it is written anew, and must come with a remark.
    """
    found = outcome("adapter folders", lambda: read(mutant.write(folder)))
    if not isinstance(found, Exception) and found.origin.is_rewritten:
        assert found.origin.notes
        folder = folder.with_name("rewritten")
        found.save(folder)
        event("taken under other names")
    shapes = SHAPES | ({} if isinstance(found, Exception) else _shapes(found))
    theirs = peft_deltas(folder, shapes)
    if isinstance(found, Exception) or isinstance(theirs, Exception):
        is_read = (not isinstance(found, Exception), not isinstance(theirs, Exception))
        event(f"read by (loragen, PEFT): {is_read}")
        return
    event("compared with PEFT")
    differs = difference(found, theirs)
    assert differs is None, differs


def _shapes(adapter):
    return {site.name: (site.out_features, site.in_features) for site in adapter.spec.sites}


@settings(max_examples=examples("middle"))
@given(mutant=folders(sound=True))
def test_what_peft_writes_means_what_it_means_to_peft(mutant, scratch):
    compare(mutant, scratch / "sound")


@settings(max_examples=examples("light"))
@given(mutant=folders())
def test_a_mutant_is_refused_or_means_what_it_means_to_peft(mutant, scratch):
    compare(mutant, scratch / "mutant")
