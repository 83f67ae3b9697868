"""Loss that a model reaches without reading the text, from label statistics alone."""

import numpy as np

from flax_ner.text.encoding import TokenSet


def label_frequency_loss(tokens: TokenSet) -> float:
    """Return the mean cross-entropy per token of predicting the label frequencies for every token.

    Args:
        tokens: training data; tokens with a negative label are ignored.
    """
    labels = tokens.labels[tokens.labels >= 0]
    p = np.bincount(labels) / max(len(labels), 1)
    p = p[p > 0]
    return float(-(p * np.log(p)).sum())


def label_transition_loss(tokens: TokenSet) -> float:
    """Return the mean cross-entropy per token of predicting each label from the previous one alone.

    A CRF reaches this loss with its transition scores, even if the encoder learns nothing.

    Args:
        tokens: training data; tokens with a negative label are ignored.
    """
    first = np.zeros(len(tokens.labels), bool)
    first[np.cumsum(tokens.lengths) - tokens.lengths] = True
    known = tokens.labels >= 0
    labels, first = tokens.labels[known], first[known]
    count = int(labels.max(initial=0)) + 1
    pairs = np.zeros((count, count))
    np.add.at(pairs, (labels[:-1][~first[1:]], labels[1:][~first[1:]]), 1)
    p = pairs / np.maximum(pairs.sum(1, keepdims=True), 1)
    return float(-(pairs[pairs > 0] * np.log(p[pairs > 0])).sum() / max(len(labels), 1))
