import pytest

from loragen.cli.options import label_names, numbers, one_each
from loragen.errors import ConfigError, LoragenError


def test_label_names_are_split_at_commas():
    assert label_names(None) is None
    assert label_names(" spam , not spam,") == ["spam", "not spam"]
    for labels in ("", "one", "a,a", " , "):
        with pytest.raises(ConfigError, match="at least two different ones are wanted"):
            label_names(labels)


def test_label_names_with_commas_are_given_one_by_one_or_in_a_file(tmp_path):
    assert label_names(None, ["late, or never", " in time "]) == ["late, or never", "in time"]
    (tmp_path / "names.txt").write_text("\ufefflate, or never\r\n\n in time \n")
    assert label_names(None, None, tmp_path / "names.txt") == ["late, or never", "in time"]
    assert label_names(None, []) is None
    for given, message in (
        (("a,b", ["c"], None), "--labels and --label both name labels; give them in one way"),
        ((None, ["c", "d"], tmp_path / "names.txt"), "--label and --labels-file both name labels"),
        ((None, ["c"], None), r"--label \['c'\] gives 1 names; at least two"),
        ((None, None, tmp_path / "names.csv"), r"names\.csv is no \.txt file; write the label names into one"),
        ((None, None, tmp_path / "lost.txt"), r"Cannot read .*lost\.txt"),
    ):
        with pytest.raises(LoragenError, match=message):
            label_names(*given)


def test_numbers_are_split_at_commas():
    assert numbers("-.6,.4, 2", "--weights") == [-0.6, 0.4, 2]
    with pytest.raises(ConfigError, match=r"--weights '1,x' is no list of numbers; give them as in --weights \.6,\.4"):
        numbers("1,x", "--weights")


def test_values_are_given_for_all_adapters_or_for_none():
    assert one_each(None, ["a", "b"], "--id") == [None, None]
    assert one_each(["x", "y"], ["a", "b"], "--id") == ["x", "y"]
    with pytest.raises(ConfigError, match="--id was given 1 times for 2 adapters; give it once for each, in order"):
        one_each(["x"], ["a", "b"], "--id")
