"""Loss of a model that does not read the text, only knows how frequent each label is."""

import numpy as np

from flax_ner.text.encoding import TokenSet


def label_frequency_loss(tokens: TokenSet) -> float:
    """Return the smallest mean cross-entropy per token of a model that predicts the same for every token.

    Args:
        tokens: training data; negative labels do not count.
    """
    labels = tokens.labels[tokens.labels >= 0]
    p = np.bincount(labels) / max(len(labels), 1)
    p = p[p > 0]
    return float(-(p * np.log(p)).sum())


def label_transition_loss(tokens: TokenSet) -> float:
    """Return the smallest mean cross-entropy per token of a model that knows nothing but the label before.

    A CRF learns as much from its transition scores, whatever the encoder does.
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
