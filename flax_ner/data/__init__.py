"""Labelled data: formats, readers, writers, detection, download. NumPy only; never imports jax."""
