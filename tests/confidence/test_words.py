"""Descriptions that say nothing to the embedded encoder, and those that say a little."""

import pytest

from loragen.conditions.text_encoder import TextEncoder
from loragen.confidence.words import NEAR, says_nothing


@pytest.fixture(scope="module")
def encoder():
    return TextEncoder.load()


@pytest.mark.parametrize("text", ["asdf", "the", "x", "1234", "!!!", "qwerty uiop", "the the the", "Brufleath spoomai"])
def test_keys_and_empty_words_say_nothing(encoder, text):
    assert says_nothing(text, 0.2, encoder)


@pytest.mark.parametrize("text", ["sentiment", "Sort letters.", "what tenants write", "Briefe an ein Museum"])
def test_one_word_that_is_known_is_enough(encoder, text):
    assert not says_nothing(text, 0.2, encoder)


def test_a_word_in_pieces_counts_where_an_expert_is_near(encoder):
    assert says_nothing("asdf", NEAR - 0.01, encoder)
    assert not says_nothing("asdf", NEAR, encoder)


def test_without_a_tokenizer_nothing_is_said_of_words():
    class Silent:
        def count_tokens(self, _texts):
            return None

    assert not says_nothing("asdf", 0.1, Silent())
