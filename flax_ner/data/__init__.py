"""Labelled data: formats, readers, writers, detection, download. NumPy only; never imports jax.

>>> from flax_ner.data import read, write
>>> write("train.conll", read("export.jsonl"), "conll")
"""

from flax_ner.data.detection import detect_format
from flax_ner.data.files import ReadOptions
from flax_ner.data.formats import read, write

__all__ = ["ReadOptions", "detect_format", "read", "write"]
