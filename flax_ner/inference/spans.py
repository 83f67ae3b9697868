"""What a head of spans found in packed rows, as places among all tokens."""

import numpy as np

from flax_ner.model.global_pointer import Found


def spans_of(
    source: np.ndarray, target: np.ndarray, found: Found
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """The entities of one batch.

    Args:
        source: int [M], which of all tokens lie in the batch.
        target: int [M], and where: places in the flat [B * T].
        found: what the model gives for it.

    Returns:
        First and last token among all tokens, category, and the sigmoid of the score; all [E].
    """
    bits, factors = np.asarray(found.bits), [np.asarray(x) for x in found.factors]
    B, _, T, _ = bits.shape
    bytes_set = np.nonzero(bits)  # few
    which, bit = np.nonzero(np.unpackbits(bits[bytes_set][:, None], axis=1))
    row, kind, first, byte = (x[which] for x in bytes_set)
    last = 8 * byte + bit
    token = np.zeros(B * T, np.int64)
    token[target] = source
    query, key, begin, end = factors
    score = (query[row, first] * key[row, last]).sum(-1)
    score += begin[row, first, kind] + end[row, last, kind]
    return (
        token[row * T + first],
        token[row * T + last],
        kind,
        1 / (1 + np.exp(-score, dtype=np.float64)),
    )
