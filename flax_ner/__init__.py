"""Named-entity recognition with BERT in JAX/Flax, for Chinese and other languages.

Example:
    >>> from flax_ner import load
    >>> tagger = load("runs/cluener/best")
    >>> tagger(["彭小军认为，国内银行现在走的是台湾的发卡模式"])
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from flax_ner.text.examples import Entity

if TYPE_CHECKING:
    from flax_ner.evaluation.metrics import score
    from flax_ner.inference.tagger import Tagger, load
    from flax_ner.text.labels import LabelSet
    from flax_ner.text.tokenizer import CharTokenizer

__version__ = "0.1.0"
__all__ = ["CharTokenizer", "Entity", "LabelSet", "Tagger", "load", "score"]

# Imported on first use, so that only `Tagger` and `load` import jax.
_MODULES = {
    "CharTokenizer": "flax_ner.text.tokenizer",
    "LabelSet": "flax_ner.text.labels",
    "Tagger": "flax_ner.inference.tagger",
    "load": "flax_ner.inference.tagger",
    "score": "flax_ner.evaluation.metrics",
}


def __getattr__(name: str) -> Any:
    """Import a public name on first use."""
    if name in _MODULES:
        return getattr(import_module(_MODULES[name]), name)
    raise AttributeError(f"module 'flax_ner' has no attribute {name!r}")
