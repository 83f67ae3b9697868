"""Convert a PyTorch file into a model directory, without PyTorch.

python convert/torch_to_flax.py SOURCE OUT [--vocab FILE] [--labels FILE] [--config FILE]
"""

import argparse
import sys
from pathlib import Path

from absl import logging

# Python puts this folder on the path, not the repository, where flax_ner lies if it is not installed.
sys.path.append(str(Path(__file__).resolve().parents[1]))

from flax_ner.errors import UserError
from flax_ner.weights.convert import beside, convert, read_config, read_labels
from flax_ner.weights.model_dir import save_model


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "source", metavar="SOURCE", help="MMOCR's bert_pretrain.pth or a trained checkpoint"
    )
    parser.add_argument("out", metavar="OUT", help="model directory to write")
    parser.add_argument(
        "--vocab", metavar="FILE", help="vocab.txt of the weights; default: beside SOURCE"
    )
    parser.add_argument(
        "--labels", metavar="FILE",
        help="categories in the order of the head's outputs, one a line, or a labels.json; "
        "default: those of CLUENER where the source has a head",
    )  # fmt: skip
    parser.add_argument(
        "--config", metavar="FILE",
        help="config.json with num_attention_heads, hidden_act, layer_norm_eps; default: beside SOURCE, "
        "else 64 wide heads and MMOCR's activation",
    )  # fmt: skip
    options = parser.parse_args(arguments)
    logging.set_verbosity(logging.WARNING)
    try:
        vocab = options.vocab or beside(options.source, "vocab.txt")
        if vocab is None:
            raise UserError(
                f"--vocab: there is no vocab.txt beside {options.source}. Name the file."
            )
        config = options.config or beside(options.source, "config.json")
        model, report = convert(
            options.source,
            vocab,
            read_labels(options.labels) if options.labels else None,
            read_config(config) if config else None,
        )
        save_model(options.out, model)
    except (UserError, OSError) as error:
        sys.exit(f"torch_to_flax: {error}")
    print(report)
    print(
        f"Vocabulary: {vocab}. Configuration: {config or 'from the tensors'}. Written: {options.out}"
    )


if __name__ == "__main__":
    main()
