"""Token losses, averaged over the positions a mask lets in."""

import jax
import jax.numpy as jnp
from jax import Array


def cross_entropy(logits: Array, labels: Array, mask: Array, label_smoothing: float = 0.0) -> Array:
    """Mean of -log p(label), float32 scalar; 0 where the mask is empty.

    With `label_smoothing` that share of the label's weight is spread evenly over all tags, its own
    too. Source: Szegedy et al. 2016, arXiv 1512.00567.

    Args:
        logits: float32 [B, T, C].
        labels: int32 [B, T]; what stands where the mask is 0 does not matter.
        mask: bool or 0/1 [B, T].
    """
    loss = focal_loss(logits, labels, mask, gamma=0.0)
    if label_smoothing:
        even = -jax.nn.log_softmax(logits).mean(-1)  # [B, T]
        mask = mask.astype(logits.dtype)
        even_loss = (even * mask).sum() / jnp.maximum(mask.sum(), 1)
        loss = (1 - label_smoothing) * loss + label_smoothing * even_loss
    return loss


def focal_loss(logits: Array, labels: Array, mask: Array, gamma: float = 2.0) -> Array:
    """Mean of -(1 - p)^gamma log p with p the label's probability; otherwise as `cross_entropy`.

    Source: Lin et al. 2017, arXiv 1708.02002, without the class weights; MMOCR's MaskedFocalLoss.
    """
    log_p = jnp.take_along_axis(jax.nn.log_softmax(logits), labels[..., None], -1)[..., 0]  # [B, T]
    loss = -log_p
    if gamma:
        # Where p rounds to 1 the power's derivative is infinite for gamma < 1; the loss and its true
        # gradient are 0 there. Both branches of `where` must be finite, or the gradient is NaN.
        certain = log_p > -jnp.finfo(log_p.dtype).tiny
        wrong = -jnp.expm1(jnp.where(certain, -1, log_p))  # 1 - p
        loss = jnp.where(certain, 0, -(wrong**gamma) * log_p)
    mask = mask.astype(logits.dtype)
    return (loss * mask).sum() / jnp.maximum(mask.sum(), 1)
