"""Configs: each is read, written and read again as the same, or refused."""

from hypothesis import given, settings

from fuzz.configs import SHIPPED, configs, overrides
from fuzz.harness import examples, outcome


def read_twice(read, content, folder, given=()):
    """Read a config, write it, and read it again."""
    folder.mkdir(exist_ok=True)
    path = folder / "config.yaml"
    path.write_bytes(content)
    first = read(path, given)
    path.write_text(first.to_yaml())
    assert read(path) == first
    return first


def test_what_is_shipped_is_read(scratch):
    assert len(SHIPPED) > 25
    for content, read in SHIPPED:
        assert not isinstance(outcome("shipped configs", lambda: read_twice(read, content, scratch)), Exception)  # noqa: B023


@settings(max_examples=examples("light"))
@given(config=configs())
def test_mutants_are_read_or_refused(config, scratch):
    content, read = config
    outcome("configs", lambda: read_twice(read, content, scratch))


@settings(max_examples=examples("middle"))
@given(values=overrides())
def test_overrides_are_taken_or_refused(values, scratch):
    content, read = SHIPPED[0]
    outcome("overrides", lambda: read_twice(read, content, scratch, values))
