"""The choice of texts to annotate: the least certain first, different texts."""

import numpy as np
import pytest

from flax_ner import Tagger
from flax_ner.inference.selection import select_texts
from tests.inference.helpers import hand_made_tagger


@pytest.fixture(scope="module")
def tagger() -> Tagger:
    return hand_made_tagger()


def test_log_probabilities_are_those_of_the_predicted_tags(tagger: Tagger) -> None:
    texts = ["abc", "", "bacab"]
    for text, (log_prob, words) in zip(texts, tagger.sequence_log_probs(texts), strict=True):
        probs = tagger.predict_proba(text)
        expected = np.log(probs.max(-1)).sum() if len(text) else 0.0
        assert words == len(text)
        assert log_prob == pytest.approx(expected, abs=1e-4)


class Certain:
    """Stands for a tagger with known certainties."""

    def __init__(self, log_probs: dict[str, float]):
        self._log_probs = log_probs

    def sequence_log_probs(self, texts: list[str]) -> list[tuple[float, int]]:
        return [(self._log_probs[text], len(text)) for text in texts]


def test_the_least_certain_texts_are_picked_and_copies_put_off() -> None:
    log_probs = {"abcdef": -6.0, "abcdeg": -5.9, "xyz": -0.3, "uvwuvw": -3.0, "long" * 9: -7.0}
    texts = list(log_probs)
    tagger: Tagger = Certain(log_probs)  # type: ignore[assignment]
    assert select_texts(tagger, texts, 3) == [0, 3, 4]  # not 1, which is like 0
    assert select_texts(tagger, texts, 5) == [0, 3, 4, 2, 1]
    assert select_texts(tagger, texts, 9) == [0, 3, 4, 2, 1]
