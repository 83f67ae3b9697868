"""Text to token ids and tags, and back. NumPy only; never imports jax."""
