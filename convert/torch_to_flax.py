"""Convert PyTorch weights into a model directory, without PyTorch.

python convert/torch_to_flax.py SOURCE OUT [--vocab FILE] [--labels FILE] [--config FILE] [--drop-head]
"""

import argparse
import sys
from pathlib import Path

from absl import logging
from rich.console import Console

# Python puts this folder on the path, not the repository, where flax_ner lies if it is not installed.
sys.path.append(str(Path(__file__).resolve().parents[1]))

from flax_ner.errors import UserError
from flax_ner.memory import explain_jax_errors
from flax_ner.next_steps import after_encoder, after_tagger, print_next
from flax_ner.text.kinds import TOKENIZERS
from flax_ner.weights.characters import with_tokenizer
from flax_ner.weights.convert import CLUENER, convert, read_labels
from flax_ner.weights.hub import resolve
from flax_ner.weights.model_dir import ModelDir, is_model_dir, save_model
from flax_ner.weights.source import open_source


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "source", metavar="SOURCE",
        help="a file (.pth, .bin, .safetensors), a folder with one, its config.json and its vocab.txt or "
        "tokenizer.json, or owner/name[@revision] on the Hugging Face hub",
    )  # fmt: skip
    parser.add_argument("out", metavar="OUT", help="model directory to write")
    parser.add_argument(
        "--vocab", metavar="FILE",
        help="vocab.txt or tokenizer.json of the weights; default: beside them",
    )  # fmt: skip
    parser.add_argument(
        "--labels", metavar="FILE",
        help="what the head's outputs mean: a labels.json, or one a line the tags (O, B-name, ...) or MMOCR's "
        "categories; default: id2label of config.json, else the tags of MMOCR over CLUENER's categories",
    )  # fmt: skip
    parser.add_argument(
        "--config", metavar="FILE",
        help="config.json with what tensors cannot tell (heads, activation, LayerNorm eps, dropout); default: "
        "beside the weights",
    )  # fmt: skip
    parser.add_argument(
        "--num-attention-heads", metavar="N", type=int,
        help="where there is no config.json; default: one for each 64 of the width",
    )  # fmt: skip
    parser.add_argument(
        "--tokenizer", choices=tuple(TOKENIZERS),
        help="how text is read: char, one token per character; wordpiece, as BERT does; subword, as their "
        "tokenizer.json says; default: as the files beside the weights say",
    )  # fmt: skip
    parser.add_argument(
        "--drop-head", action="store_true",
        help="convert the encoder alone, also if the head is of a kind that cannot be read",
    )  # fmt: skip
    parser.add_argument(
        "--force", action="store_true", help="replace a model directory that exists"
    )
    options = parser.parse_args(arguments)
    logging.set_verbosity(logging.WARNING)
    heads = options.num_attention_heads
    try:
        if is_model_dir(Path(options.out)) and not options.force:
            raise UserError(
                f"{options.out}: exists. Name another path, or replace it with --force."
            )
        path = resolve(options.source, "SOURCE")
        if is_model_dir(path):
            raise UserError(
                f"{path}: is a model directory already, so there is nothing to convert."
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
        model.build_tokenizer()  # a tokenizer.json that cannot be used is an error now, not at load
        if heads not in (None, model.config.num_attention_heads):
            raise UserError(
                f"--num-attention-heads: {heads}, but {source.config_path} says "
                f"{model.config.num_attention_heads}. Leave the option out, or correct the file."
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
    cluener = set(model.labels.categories) == set(CLUENER) and Path(dev).exists()
    return after_tagger(out, [dev] if cluener else None)


if __name__ == "__main__":
    main()
