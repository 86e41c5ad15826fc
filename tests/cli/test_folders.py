import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loragen.errors import ConfigError
from loragen.files import folder_name, refuse_to_replace


def test_a_folder_name_is_made_of_the_first_words_of_a_description():
    assert folder_name("Is this e-mail SPAM, or is it ham? Say so in one word.") == "is-this-e-mail-spam-or-is-it"
    assert folder_name("Sort café reviews", words=2) == "sort-caf"
    assert folder_name("  ...  ") == folder_name("") == folder_name("日本語") == "task"


@given(st.text())
def test_every_text_gives_a_good_folder_name(description):
    assert re.fullmatch(r"[a-z0-9][a-z0-9-]{0,79}", folder_name(description))


def test_a_folder_that_is_there_is_replaced_with_force_alone(tmp_path):
    refuse_to_replace([tmp_path / "new"], force=False)
    refuse_to_replace([tmp_path], force=True)
    with pytest.raises(ConfigError, match=r"exists already; give another --out, or --force to replace it"):
        refuse_to_replace([tmp_path / "new", tmp_path], force=False)
