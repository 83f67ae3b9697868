"""Chinese (and any) named-entity recognition with BERT in JAX/Flax.

from flax_ner import load
tagger = load("runs/cluener/best")
tagger(["彭小军认为，国内银行现在走的是台湾的发卡模式"])
"""

from typing import TYPE_CHECKING, Any

from flax_ner.text.examples import Entity

if TYPE_CHECKING:
    from flax_ner.inference.tagger import Tagger, load

__version__ = "0.1.0"
__all__ = ["Entity", "Tagger", "load"]


def __getattr__(name: str) -> Any:
    """Import `load` and `Tagger` on first use, so that `flax_ner.text` alone never needs jax."""
    if name in ("Tagger", "load"):
        from flax_ner.inference import tagger

        return getattr(tagger, name)
    raise AttributeError(f"module 'flax_ner' has no attribute {name!r}")
