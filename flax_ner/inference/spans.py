"""Extract the predicted spans of a span head from packed rows."""

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
        First token, last token, category id, and sigmoid of the score, each [E]. Tokens are indices among
        all tokens.
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
    return (
        token[row * T + first],
        token[row * T + last],
        category,
        1 / (1 + np.exp(-score, dtype=np.float64)),
    )
