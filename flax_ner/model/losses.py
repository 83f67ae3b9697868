"""Token classification losses, averaged over the tokens that a mask selects.

Cross-entropy is the focal loss with gamma 0. optax has a focal loss for binary labels only.
"""

import jax
import jax.numpy as jnp
from jax import Array


def cross_entropy(logits: Array, labels: Array, mask: Array, label_smoothing: float = 0.0) -> Array:
    """Return the mean of -log p(label), float32 scalar; 0 if the mask is empty.

    With label smoothing the target is (1 - label_smoothing) * one_hot(label) + label_smoothing / C.

    Source: Szegedy et al. 2016, arXiv 1512.00567.

    Args:
        logits: float32 [B, T, C].
        labels: int32 [B, T], ignored where the mask is 0.
        mask: bool or 0/1 [B, T].
        label_smoothing: smoothing factor in [0, 1).
    """
    loss = focal_loss(logits, labels, mask, gamma=0.0)
    if label_smoothing:
        uniform = -jax.nn.log_softmax(logits).mean(-1)  # [B, T]
        mask = mask.astype(logits.dtype)
        uniform_loss = (uniform * mask).sum() / jnp.maximum(mask.sum(), 1)
        loss = (1 - label_smoothing) * loss + label_smoothing * uniform_loss
    return loss


def focal_loss(logits: Array, labels: Array, mask: Array, gamma: float = 2.0) -> Array:
    """Return the mean of -(1 - p)^gamma log p, where p is the label's probability, float32 scalar.

    The other arguments are those of `cross_entropy`.

    Source: Lin et al. 2017, arXiv 1708.02002, without the class weights; MMOCR's MaskedFocalLoss.
    """
    log_p = jnp.take_along_axis(jax.nn.log_softmax(logits), labels[..., None], -1)[..., 0]  # [B, T]
    loss = -log_p
    if gamma:
        # If p rounds to 1 and gamma < 1, the derivative of the power is infinite, while the loss and its true
        # gradient are 0. Both branches of `where` must be finite, or the gradient is NaN.
        certain = log_p > -jnp.finfo(log_p.dtype).tiny
        complement = -jnp.expm1(jnp.where(certain, -1, log_p))  # 1 - p
        loss = jnp.where(certain, 0, -(complement**gamma) * log_p)
    mask = mask.astype(logits.dtype)
    return (loss * mask).sum() / jnp.maximum(mask.sum(), 1)
