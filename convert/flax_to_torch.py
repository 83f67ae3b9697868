"""Export a model for Hugging Face transformers or MMOCR. PyTorch is not needed.

python convert/flax_to_torch.py MODEL OUT --layout hf|mmocr [--labels bio]
"""

import argparse
import sys
from pathlib import Path

from absl import logging

# Python puts this folder on sys.path. Without an installation, flax_ner is in the parent folder.
sys.path.append(str(Path(__file__).resolve().parents[1]))

from flax_ner.errors import UserError
from flax_ner.memory import explain_jax_errors
from flax_ner.weights.export import EXPORT_LAYOUTS, LABELS, export
from flax_ner.weights.open_model import open_model


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "model", metavar="MODEL",
        help="model directory such as WORKDIR/best, or any SOURCE of convert/torch_to_flax.py",
    )  # fmt: skip
    parser.add_argument(
        "out", metavar="OUT", help="hf: folder to create; mmocr: .pth file to create"
    )
    parser.add_argument(
        "--layout",
        choices=EXPORT_LAYOUTS,
        required=True,
        help="hf: for Hugging Face transformers; mmocr: for MMOCR",
    )
    parser.add_argument(
        "--labels", choices=LABELS,
        help="hf: rename E- tags to I- and S- tags to B-, for transformers' pipeline. Default: as trained",
    )  # fmt: skip
    options = parser.parse_args(arguments)
    logging.set_verbosity(logging.WARNING)
    try:
        with explain_jax_errors():
            model, report = open_model(options.model, "MODEL")
            for note in report.notes if report else ():
                print(note)
            print(export(model, options.out, options.layout, options.labels))
    except (UserError, OSError) as error:
        sys.exit(f"flax_to_torch: {error}")


if __name__ == "__main__":
    main()
