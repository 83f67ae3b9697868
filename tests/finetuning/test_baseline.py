"""The loss of predicting labels without reading the text."""

import numpy as np
import pytest

from flax_ner.finetuning.baseline import label_frequency_loss, label_transition_loss
from flax_ner.text.encoding import TokenSet


def token_set(*texts: list[int]) -> TokenSet:
    labels = np.concatenate(texts).astype(np.int32)
    return TokenSet(np.zeros_like(labels), labels, np.array([len(text) for text in texts]))


def test_the_loss_of_equal_frequencies_is_the_log_of_their_number() -> None:
    assert label_frequency_loss(token_set([0, 1, 2], [3])) == pytest.approx(np.log(4))


def test_the_frequency_loss_is_the_mean_over_tokens() -> None:
    tokens, p = token_set([0, 0, 0, 1, -1], [-1, 0]), np.array([4 / 5, 1 / 5])
    each = -np.log(p)[[0, 0, 0, 1, 0]]
    assert label_frequency_loss(tokens) == pytest.approx(each.mean())


def test_transitions_are_counted_within_texts_only() -> None:
    # Each label is determined by the previous one. First labels are not counted.
    assert label_transition_loss(token_set([0, 1, 2], [2, 0, 1], [1])) == 0
    # In two of five tokens, the label after a 0 is 0 or 1.
    assert label_transition_loss(token_set([0, 0, 1], [2, 2])) == pytest.approx(2 * np.log(2) / 5)


def test_the_loss_without_labels_is_zero() -> None:
    assert label_frequency_loss(token_set([-1, -1])) == 0
    assert label_transition_loss(token_set([-1, -1])) == 0
