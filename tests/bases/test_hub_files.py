"""Files of the Hub: names, commits, sizes before fetching, and no way out of the cache."""

import hub_fakes
import pytest

from loragen.bases.hub_files import HubName, Limits, NotFetchedError, Snapshot, fetched

hub = hub_fakes.hub
PLENTY = Limits(files=10, size=1_000)
SHA = "0123456789abcdef0123456789abcdef01234567"


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("org/name", HubName("org/name")),
        (f"org/name@{SHA}", HubName("org/name", SHA)),
        ("org/name@v1.0", HubName("org/name", "v1.0")),
        ("org/name/tax", HubName("org/name", None, "tax")),
        ("org/name@main/tax/checkpoint-100", HubName("org/name", "main", "tax/checkpoint-100")),
        ("org/name@refs/pr/1", HubName("org/name", "refs/pr/1")),
        ("org/name@refs/pr/1/tax/", HubName("org/name", "refs/pr/1", "tax")),
    ],
)
def test_a_name_holds_a_revision_and_a_folder(text, name):
    assert HubName.parse(text, has_subfolder=True) == name


def test_without_folders_a_revision_may_hold_a_slash():
    assert HubName.parse("org/name@feature/x") == HubName("org/name", "feature/x")
    assert HubName.parse("gpt2") == HubName("gpt2")


@pytest.mark.parametrize(
    "text",
    [
        *(
            "",
            "/",
            "..",
            "../x",
            "org/../x",
            "org//x",
            "org/na me",
            "org/name\n",
            "org/name.git",
            "a--b/c",
            "~/x",
            "C:\\x",
        ),
        *("org/name@", "org/name@../x", "org/name@a..b", "org/name@-x", "org/name@a b", "org/name@\0", "org/name@/x"),
        *("org/name@main/../x", "org/name@main//x", "org/name/..", "org/name@main/.git", "org/name@main/a\\b"),
        *("https://huggingface.co/org/name", "org/name@main/x\ud800", "org/" + "x" * 99),
    ],
)
def test_what_is_no_name_is_refused_before_the_hub_is_asked(hub, text):
    with pytest.raises(NotFetchedError, match="is no "):
        HubName.parse(text, has_subfolder=True)
    assert hub.asked == []


@pytest.fixture
def repo(hub, tmp_path):
    folder = tmp_path / "repo"
    (folder / "sub").mkdir(parents=True)
    for name in ("a.json", "b.bin", "code.py", "sub/a.json"):
        (folder / name).write_text(name)
    hub.repos["org/name", "main"] = hub.repos["org/name", "v1"] = folder
    return folder


def test_the_commit_is_found_and_only_named_files_are_fetched(hub, repo):
    got = fetched(HubName("org/name"), ["a.json"], PLENTY)
    assert got.commit == hub.commit("org/name", "main")
    assert sorted(path.name for path in got.folder.iterdir()) == ["a.json"]
    assert hub.fetched == ["a.json"]
    assert fetched(HubName("org/name", "v1"), ["a.json"], PLENTY).commit == hub.commit("org/name", "v1")


def test_a_folder_of_a_repository_is_taken_alone(hub, repo):
    got = fetched(HubName("org/name", None, "sub"), ["a.json"], PLENTY)
    assert hub.fetched == ["sub/a.json"]
    assert (got.folder / "a.json").read_text() == "sub/a.json"
    with pytest.raises(NotFetchedError, match="has no folder 'other'"):
        fetched(HubName("org/name", None, "other"), ["a.json"], PLENTY)


@pytest.mark.parametrize(
    ("limits", "size"), [(Limits(1, 1_000), 6), (Limits(10, 1_000), 10**12), (Limits(10, 1_000), None)]
)
def test_nothing_is_fetched_of_what_is_too_large_or_of_no_known_size(hub, repo, limits, size):
    hub.sizes["a.json"] = size
    with pytest.raises(NotFetchedError, match=r"where at most|does not say how large"):
        fetched(HubName("org/name"), ["*.json"], limits)
    assert hub.fetched == []


def test_without_a_connection_the_cache_is_used_within_the_same_limits(hub, repo):
    first = fetched(HubName("org/name"), ["a.json"], PLENTY)
    hub.is_online = False
    assert fetched(HubName("org/name"), ["a.json"], PLENTY) == first
    assert fetched(HubName("org/name", first.commit), ["a.json"], PLENTY) == first
    with pytest.raises(NotFetchedError, match="at most 10 of 0"):
        fetched(HubName("org/name"), ["a.json"], Limits(10, 1))
    with pytest.raises(NotFetchedError, match="no connection"):
        fetched(HubName("org/other"), ["a.json"], PLENTY)


def test_what_is_asked_for_on_this_machine_alone_is_not_asked_of_the_hub(hub, repo):
    with pytest.raises(NotFetchedError):
        fetched(HubName("org/name"), ["a.json"], PLENTY, is_local=True)
    fetched(HubName("org/name"), ["a.json"], PLENTY)
    hub.asked.clear()
    commit = hub.commit("org/name")
    at = hub.cache / "models--org--name" / "snapshots" / commit
    assert fetched(HubName("org/name"), ["a.json"], PLENTY, is_local=True) == Snapshot(at, commit)
    assert hub.asked == []


def test_a_link_out_of_the_cache_is_not_followed(hub, repo, tmp_path):
    got = fetched(HubName("org/name"), ["a.json"], PLENTY)
    (tmp_path / "secret.json").write_text("{}")
    (got.folder / "a.json").unlink()
    (got.folder / "a.json").symlink_to(tmp_path / "secret.json")
    with pytest.raises(NotFetchedError, match="is a link out of the Hub's cache"):
        fetched(HubName("org/name"), ["a.json"], PLENTY, is_local=True)
