"""Which tokens are masked: chosen anew in every step, on the device."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from flax_ner.text.tokenizer import Tokenizer

MASK_SHARE, RANDOM_SHARE = 0.8, 0.1  # of what is chosen; the others stay as they are


class Masked(NamedTuple):
    """Rows with tokens hidden, and what they were."""

    input_ids: Array  # int32 [B, T]
    places: Array  # int32 [B, K], where tokens were chosen
    labels: Array  # int32 [B, K], what stood there
    counted: Array  # bool [B, K]; a row with fewer tokens has fewer chosen ones than K


class Masking(NamedTuple):
    """What a vocabulary has to do with it."""

    mask_id: int
    cls_id: int
    sep_id: int
    vocab_size: int

    @classmethod
    def of(cls, tokenizer: Tokenizer) -> "Masking":
        mask_id = tokenizer.tokens.index("[MASK]")
        return cls(mask_id, tokenizer.cls_id, tokenizer.sep_id, len(tokenizer.tokens))

    def counts(self, input_ids: Array, segment_ids: Array, share: float) -> Array:
        """How many tokens `mask` chooses of each row, int32 [B]."""
        real = self._real(input_ids, segment_ids)
        return jnp.round(share * real.sum(1)).astype(jnp.int32)

    def mask(self, key: Array, input_ids: Array, segment_ids: Array, share: float) -> Masked:
        """Choose a share of each row's tokens, without padding, [CLS] and [SEP], and hide them.

        Of the chosen ones 80% become [MASK] and 10% any token of the vocabulary.
        Source: Devlin et al. 2019, arXiv 1810.04805; differs: a row has exactly its share.

        Args:
            key: of the choice.
            input_ids, segment_ids: int32 [B, T].
            share: in (0, 1).
        """
        choose, kind, other = jax.random.split(key, 3)
        noise = jax.random.uniform(choose, input_ids.shape)
        noise = jnp.where(self._real(input_ids, segment_ids), noise, -1.0)
        most = max(round(share * input_ids.shape[1]), 1)
        places = jax.lax.top_k(noise, most)[1]  # [B, K]
        wanted = self.counts(input_ids, segment_ids, share)
        counted = jnp.arange(most)[None] < wanted[:, None]

        labels = jnp.take_along_axis(input_ids, places, 1)
        kind = jax.random.uniform(kind, places.shape)
        random = jax.random.randint(other, places.shape, 0, self.vocab_size, jnp.int32)
        new = jnp.where(kind < MASK_SHARE + RANDOM_SHARE, random, labels)
        new = jnp.where(kind < MASK_SHARE, self.mask_id, new)
        new = jnp.where(counted, new, labels)
        hidden = jnp.put_along_axis(input_ids, places, new, 1, inplace=False)
        return Masked(hidden, places, labels, counted)

    def _real(self, input_ids: Array, segment_ids: Array) -> Array:
        return (segment_ids > 0) & (input_ids != self.cls_id) & (input_ids != self.sep_id)
