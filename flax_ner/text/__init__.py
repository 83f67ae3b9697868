"""Text side: examples, tokens, labels, batches, scores. NumPy only; never imports jax."""
