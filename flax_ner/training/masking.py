"""Which tokens are masked: chosen anew in every step, on the device."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from flax_ner.text.tokenizer import Tokenizer

MASK_SHARE, RANDOM_SHARE = 0.8, 0.1  # of what is chosen; the others stay as they are


class Masked(NamedTuple):
    """Rows with tokens hidden, and what they were."""

    input_ids: Array  # int32 [B, T]
    places: Array  # int32 [B, K], where tokens were chosen
    labels: Array  # int32 [B, K], what stood there, by its number among those that are scored
    counted: Array  # bool [B, K]; a row with fewer tokens has fewer chosen ones than K


class Masking:
    """Hides tokens of a vocabulary.

    Args:
        tokenizer: whose vocabulary has [MASK].
        scored: int [S], ascending: the tokens that there are, so that may have to be guessed.
    """

    def __init__(self, tokenizer: Tokenizer, scored: np.ndarray):
        self._mask_id = tokenizer.special["mask"]
        self._cls_id, self._sep_id = tokenizer.cls_id, tokenizer.sep_id
        self._scored = scored.astype(np.int32)
        self._number = np.zeros(len(tokenizer.tokens), np.int32)
        self._number[scored] = np.arange(len(scored))

    @property
    def scored(self) -> Array:
        """int32 [S]."""
        return jnp.asarray(self._scored)

    def counts(self, input_ids: Array, segment_ids: Array, share: float) -> Array:
        """How many tokens `mask` chooses of each row, int32 [B]."""
        real = self._real(input_ids, segment_ids)
        return jnp.round(share * real.sum(1).astype(jnp.float32)).astype(jnp.int32)

    def mask(self, keys: Array, input_ids: Array, segment_ids: Array, share: float) -> Masked:
        """Choose a share of each row's tokens, without padding, [CLS] and [SEP], and hide them.

        Of the chosen ones 80% become [MASK] and 10% any other.
        Source: Devlin et al. 2019, arXiv 1810.04805; differs: a row has exactly its share, and the other
        tokens are those that there are.

        Args:
            keys: key array [B]; a row's masks depend on its key alone.
            input_ids, segment_ids: int32 [B, T].
            share: in (0, 1).
        """
        most = max(round(share * input_ids.shape[1]), 1)

        def draw(key: Array) -> tuple[Array, Array, Array]:
            choose, kind, other = jax.random.split(key, 3)
            noise = jax.random.uniform(choose, input_ids.shape[1:])
            random = jax.random.randint(other, (most,), 0, len(self._scored))
            return noise, jax.random.uniform(kind, (most,)), random

        noise, kind, random = jax.vmap(draw)(keys)  # [B, T], [B, K], [B, K]
        noise = jnp.where(self._real(input_ids, segment_ids), noise, -1.0)
        places = jax.lax.top_k(noise, most)[1]  # [B, K]
        wanted = self.counts(input_ids, segment_ids, share)
        counted = jnp.arange(most)[None] < wanted[:, None]

        old = jnp.take_along_axis(input_ids, places, 1)
        new = jnp.where(kind < MASK_SHARE + RANDOM_SHARE, self.scored[random], old)
        new = jnp.where(kind < MASK_SHARE, self._mask_id, new)
        new = jnp.where(counted, new, old)
        hidden = jnp.put_along_axis(input_ids, places, new, 1, inplace=False)
        return Masked(hidden, places, jnp.asarray(self._number)[old], counted)

    def inputs(self, masked: Masked, batch: Any) -> tuple[Array, Array, Array, Array, Array]:
        """What `apply_masked_lm` takes of a batch, behind the parameters."""
        ids, places = masked.input_ids, masked.places
        return ids, batch.segment_ids, batch.positions, places, self.scored

    def _real(self, input_ids: Array, segment_ids: Array) -> Array:
        return (segment_ids > 0) & (input_ids != self._cls_id) & (input_ids != self._sep_id)
