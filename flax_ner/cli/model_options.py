"""Load a model for a command, and the options that say how."""

import argparse
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from flax_ner.inference.tagger import Tagger


def add_compute_dtype(parser: argparse.ArgumentParser) -> None:
    """Add the option --compute-dtype."""
    parser.add_argument(
        "--compute-dtype", choices=("float32", "bfloat16"),
        help="dtype of matrix products; bfloat16 is faster on devices that support it. Default: the dtype of "
        "training",
    )  # fmt: skip


def add_batch_size(parser: argparse.ArgumentParser) -> None:
    """Add the option --batch-size."""
    parser.add_argument(
        "--batch-size", type=int, default=32, metavar="N",
        help="maximum number of 128-token rows per batch; lower it to use less memory. Default: 32",
    )  # fmt: skip


def load_tagger(model: str, compute_dtype: str | None = None, batch_size: int = 32) -> "Tagger":
    """Load a model, see `flax_ner.load`. Its compiled programs are kept on disk."""
    # jax is imported here, so that commands on data start without it.
    from flax_ner.compilation import keep_compiled_programs
    from flax_ner.inference.tagger import load

    keep_compiled_programs()
    return load(model, compute_dtype, batch_size)
