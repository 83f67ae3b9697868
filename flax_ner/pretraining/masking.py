"""Dynamic masking for masked language modelling, on the device."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from flax_ner.text.tokenizer import Tokenizer

MASK_SHARE, RANDOM_SHARE = 0.8, 0.1  # fractions of the chosen tokens; the rest are not replaced


class Masked(NamedTuple):
    """Rows with masked tokens, and the original tokens as labels.

    The axis `masked` has the largest number of masked tokens of a row.
    """

    input_ids: Array  # int32 [B, T]
    positions: Array  # int32 [B, masked], indices of the masked tokens in their row
    labels: Array  # int32 [B, masked], indices of the original tokens in `Masking.scored`
    counted: Array  # bool [B, masked]; False where a short row has fewer masked tokens


class Masking:
    """Masks tokens of a vocabulary.

    Args:
        tokenizer: its vocabulary must have [MASK].
        scored: the tokens that occur in the data, int [scored], ascending. Only these are predicted.
    """

    def __init__(self, tokenizer: Tokenizer, scored: np.ndarray):
        self._mask_id = tokenizer.special["mask"]
        self._cls_id, self._sep_id = tokenizer.cls_id, tokenizer.sep_id
        self._scored = scored.astype(np.int32)
        self._scored_index = np.zeros(len(tokenizer.tokens), np.int32)
        self._scored_index[scored] = np.arange(len(scored))

    @property
    def scored(self) -> Array:
        """The tokens that are predicted, int32 [scored]."""
        return jnp.asarray(self._scored)

    def counts(self, input_ids: Array, segment_ids: Array, share: float) -> Array:
        """Return the number of tokens that `mask` chooses in each row, int32 [B]."""
        maskable = self._maskable(input_ids, segment_ids)
        return jnp.round(share * maskable.sum(1).astype(jnp.float32)).astype(jnp.int32)

    def mask(self, keys: Array, input_ids: Array, segment_ids: Array, share: float) -> Masked:
        """Mask a fraction of each row's tokens, except padding, [CLS] and [SEP].

        Of the chosen tokens, 80% become [MASK], 10% a random token, and 10% stay.

        Args:
            keys: key array [B]. The masks of a row depend on its key only.
            input_ids: int32 [B, T].
            segment_ids: int32 [B, T].
            share: fraction of tokens to choose, between 0 and 1.

        Source: Devlin et al. 2019, arXiv 1810.04805; differs: the fraction is exact in each row, and random
        tokens are drawn from those that occur in the data.
        """
        max_count = max(round(share * input_ids.shape[1]), 1)

        def draw(key: Array) -> tuple[Array, Array, Array]:
            position_key, action_key, token_key = jax.random.split(key, 3)
            noise = jax.random.uniform(position_key, input_ids.shape[1:])
            random = jax.random.randint(token_key, (max_count,), 0, len(self._scored))
            return noise, jax.random.uniform(action_key, (max_count,)), random

        noise, action, random = jax.vmap(draw)(keys)  # [B, T], [B, masked], [B, masked]
        noise = jnp.where(self._maskable(input_ids, segment_ids), noise, -1.0)
        positions = jax.lax.top_k(noise, max_count)[1]  # [B, masked]
        counts = self.counts(input_ids, segment_ids, share)
        counted = jnp.arange(max_count)[None] < counts[:, None]

        old = jnp.take_along_axis(input_ids, positions, 1)
        new = jnp.where(action < MASK_SHARE + RANDOM_SHARE, self.scored[random], old)
        new = jnp.where(action < MASK_SHARE, self._mask_id, new)
        new = jnp.where(counted, new, old)
        masked_ids = jnp.put_along_axis(input_ids, positions, new, 1, inplace=False)
        return Masked(masked_ids, positions, jnp.asarray(self._scored_index)[old], counted)

    def inputs(self, masked: Masked, batch: Any) -> tuple[Array, Array, Array, Array, Array]:
        """Return the arguments of `apply_masked_lm` that follow the parameters."""
        ids, masked_positions = masked.input_ids, masked.positions
        return ids, batch.segment_ids, batch.positions, masked_positions, self.scored

    def _maskable(self, input_ids: Array, segment_ids: Array) -> Array:
        return (segment_ids > 0) & (input_ids != self._cls_id) & (input_ids != self._sep_id)
