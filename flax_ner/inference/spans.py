"""Extract the predicted spans of a span head from packed rows, and choose among overlapping ones."""

from bisect import bisect_right

import numpy as np

from flax_ner.model.global_pointer import SpanPredictions


def extract_spans(
    source: np.ndarray, target: np.ndarray, predicted: SpanPredictions
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return the predicted spans of one batch.

    Args:
        source: int [M], index among all tokens of each token in the batch.
        target: int [M], index of the same tokens in the flattened batch [B * T].
        predicted: output of the model for the batch.

    Returns:
        First token, last token, category id, and score above 0, each [E]. Tokens are indices among all tokens.
    """
    bits, factors = np.asarray(predicted.bits), [np.asarray(x) for x in predicted.factors]
    B, _, T, _ = bits.shape
    # Only a few bytes have a bit set, so only these are unpacked.
    nonzero_bytes = np.nonzero(bits)
    which, bit = np.nonzero(np.unpackbits(bits[nonzero_bytes][:, None], axis=1))
    row, category, first, byte = (x[which] for x in nonzero_bytes)
    last = 8 * byte + bit
    token = np.zeros(B * T, np.int64)
    token[target] = source
    query, key, start, end = factors
    score = (query[row, first] * key[row, last]).sum(-1)
    score += start[row, first, category] + end[row, last, category]
    return token[row * T + first], token[row * T + last], category, score


def choose_disjoint(
    text: np.ndarray, start: np.ndarray, end: np.ndarray, score: np.ndarray
) -> np.ndarray:
    """Return which spans to keep so that none overlap and the sum of their scores is the highest.

    Source: weighted interval scheduling, e.g. Kleinberg and Tardos 2005, Algorithm Design, section 6.1.

    Args:
        text: index of each span's text, int [E], ascending.
        start: first character, int [E], ascending within each text.
        end: end, exclusive, int [E].
        score: above 0, float [E].

    Returns:
        bool [E].
    """
    kept = np.ones(len(text), bool)
    # Offsets as if all texts were joined. A group begins with a span that overlaps none before it.
    width = int(end.max(initial=0))
    start, end = start + text * width, end + text * width
    previous_end = np.maximum.accumulate(end)[:-1]
    group_start = np.flatnonzero(np.append(True, start[1:] >= previous_end))
    group_end = np.append(group_start[1:], len(text))
    for group in zip(group_start.tolist(), group_end.tolist(), strict=True):
        if group[1] - group[0] > 1:
            members = slice(*group)
            kept[members] = _choose_in_group(start[members], end[members], score[members])
    return kept


def _choose_in_group(start: np.ndarray, end: np.ndarray, score: np.ndarray) -> np.ndarray:
    """Return which spans of one text to keep, as in `choose_disjoint`. Spans may be in any order."""
    order = np.argsort(end, kind="stable").tolist()
    ends = end[order].tolist()
    best = [0.0]  # highest sum of the first i spans by their end
    before = list[int]()  # for each of these spans, the number of spans that end before it starts
    for i, span in enumerate(order):
        before.append(bisect_right(ends, start[span], hi=i))
        best.append(max(best[i], best[before[i]] + float(score[span])))
    kept = np.zeros(len(start), bool)
    i = len(order)
    while i:
        if best[i] > best[i - 1]:
            kept[order[i - 1]] = True
            i = before[i - 1]
        else:
            i -= 1
    return kept
