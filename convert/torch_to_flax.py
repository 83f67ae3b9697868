"""Convert PyTorch weights into a model directory. PyTorch is not needed.

python convert/torch_to_flax.py SOURCE OUT [--vocab FILE] [--labels FILE] [--config FILE] [--drop-head]
"""

import argparse
import sys
from pathlib import Path

from absl import logging
from rich.console import Console

# Python puts this folder on sys.path. Without an installation, flax_ner is in the parent folder.
sys.path.append(str(Path(__file__).resolve().parents[1]))

from flax_ner.data.cluener import CATEGORIES
from flax_ner.errors import UserError
from flax_ner.memory import explain_jax_errors
from flax_ner.next_steps import after_encoder, after_tagger, print_next
from flax_ner.text.tokenizer_kinds import TOKENIZERS
from flax_ner.weights.char_tokenizer import with_tokenizer
from flax_ner.weights.convert import convert
from flax_ner.weights.head_labels import read_labels
from flax_ner.weights.hub import resolve
from flax_ner.weights.model_dir import ModelDir, is_model_dir, save_model
from flax_ner.weights.source import open_source


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "source", metavar="SOURCE",
        help="weights file (.pth, .bin, .safetensors), folder with weights, config.json and vocab.txt or "
        "tokenizer.json, or owner/name[@revision] on the Hugging Face hub",
    )  # fmt: skip
    parser.add_argument("out", metavar="OUT", help="model directory to write")
    parser.add_argument(
        "--vocab", metavar="FILE",
        help="vocab.txt or tokenizer.json of the weights. Default: the one beside them",
    )  # fmt: skip
    parser.add_argument(
        "--labels", metavar="FILE",
        help="labels of the head's outputs: a labels.json, or a text file with one tag (O, B-name, ...) or one "
        "category of MMOCR per line. Default: id2label of config.json, otherwise MMOCR's tags for CLUENER",
    )  # fmt: skip
    parser.add_argument(
        "--config", metavar="FILE",
        help="config.json with attention heads, activation, LayerNorm eps and dropout. Default: the one beside "
        "the weights",
    )  # fmt: skip
    parser.add_argument(
        "--num-attention-heads", metavar="N", type=int,
        help="number of attention heads; needed without a config.json if it is not hidden size / 64",
    )  # fmt: skip
    parser.add_argument(
        "--tokenizer", choices=tuple(TOKENIZERS),
        help="char: one token per character; wordpiece: BERT's tokenizer; subword: the tokenizer.json of the "
        "weights. Default: detected from the files beside the weights",
    )  # fmt: skip
    parser.add_argument(
        "--drop-head", action="store_true",
        help="convert only the encoder, for example if the head is not supported",
    )  # fmt: skip
    parser.add_argument("--force", action="store_true", help="replace an existing model directory")
    options = parser.parse_args(arguments)
    logging.set_verbosity(logging.WARNING)
    heads = options.num_attention_heads
    try:
        if is_model_dir(Path(options.out)) and not options.force:
            raise UserError(
                f"{options.out}: already exists. Name another path, or replace it with --force."
            )
        path = resolve(options.source, "SOURCE")
        if is_model_dir(path):
            raise UserError(
                f"{path}: is already a model directory, so there is nothing to convert."
            )
        source = open_source(path, options.vocab, options.config)
        with explain_jax_errors():
            model, report = convert(
                source,
                read_labels(options.labels) if options.labels else None,
                {} if heads is None else {"num_attention_heads": heads},
                "drop" if options.drop_head else "keep",
            )
        model, notes = with_tokenizer(model, options.tokenizer or "", "--tokenizer")
        report.notes += notes
        model.build_tokenizer()  # report an invalid tokenizer.json now, not when the model is loaded
        if heads not in (None, model.config.num_attention_heads):
            raise UserError(
                f"--num-attention-heads: {heads}, but {source.config_path} says "
                f"{model.config.num_attention_heads}. Omit the option, or correct the file."
            )
        with explain_jax_errors():
            save_model(options.out, model)
    except (UserError, OSError) as error:
        sys.exit(f"torch_to_flax: {error}")
    print(report)
    print(
        f"Vocabulary: {source.vocab_path}, {'' if model.lower_case else 'not '}lower-cased, {model.tokenizer}. "
        f"Configuration: {source.config_path or 'from the tensors'}. Written: {options.out}"
    )
    print_next(Console(), _next_commands(Path(options.out), model))


def _next_commands(out: Path, model: ModelDir) -> list[str]:
    if model.labels is None:
        return after_encoder(out, f"runs/{out.name}")
    dev = "data/cluener/dev.json"
    cluener = set(model.labels.categories) == set(CATEGORIES) and Path(dev).exists()
    return after_tagger(out, [dev] if cluener else None)


if __name__ == "__main__":
    main()
