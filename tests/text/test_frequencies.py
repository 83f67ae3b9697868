"""The loss of predicting labels without reading the text."""

import numpy as np
import pytest

from flax_ner.text.encoding import TokenSet
from flax_ner.text.frequencies import label_frequency_loss, label_transition_loss


def token_set(*texts: list[int]) -> TokenSet:
    labels = np.concatenate(texts).astype(np.int32)
    return TokenSet(np.zeros_like(labels), labels, np.array([len(text) for text in texts]))


def test_equal_frequencies_cost_the_logarithm_of_their_number() -> None:
    assert label_frequency_loss(token_set([0, 1, 2], [3])) == pytest.approx(np.log(4))


def test_the_frequency_loss_is_the_mean_over_tokens() -> None:
    tokens, p = token_set([0, 0, 0, 1, -1], [-1, 0]), np.array([4 / 5, 1 / 5])
    each = -np.log(p)[[0, 0, 0, 1, 0]]
    assert label_frequency_loss(tokens) == pytest.approx(each.mean())


def test_transitions_count_within_a_text_only() -> None:
    # Every label follows from the one before it, but for the first of each text, which costs nothing here.
    assert label_transition_loss(token_set([0, 1, 2], [2, 0, 1], [1])) == 0
    # After a 0 comes 0 or 1, in two of five tokens.
    assert label_transition_loss(token_set([0, 0, 1], [2, 2])) == pytest.approx(2 * np.log(2) / 5)


def test_no_label_costs_nothing() -> None:
    assert label_frequency_loss(token_set([-1, -1])) == 0
    assert label_transition_loss(token_set([-1, -1])) == 0
