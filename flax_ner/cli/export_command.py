"""Command line: python -m flax_ner export."""

import argparse
import warnings

from flax_ner.errors import UserError
from flax_ner.weights.export import EXPORT_LAYOUTS, LABELS, export
from flax_ner.weights.export_folder import ONNX_FILES
from flax_ner.weights.onnx_export import export_onnx
from flax_ner.weights.open_model import open_model
from flax_ner.weights.stablehlo_export import export_stablehlo


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `export`."""
    parser.description = (
        "Export a model for other programs. PyTorch is not needed. evaluate, predict, bulk, serve and web read "
        "an ONNX export too."
    )
    parser.add_argument(
        "model", metavar="MODEL",
        help="model directory such as WORKDIR/best, PyTorch weights, or owner/name on the hub",
    )  # fmt: skip
    parser.add_argument("out", metavar="OUT", help="folder to create; mmocr: .pth file to create")
    parser.add_argument(
        "--to", choices=("onnx", "stablehlo", *EXPORT_LAYOUTS), required=True,
        help="onnx: for onnxruntime, Optimum and transformers.js; stablehlo: for jax.export; hf: for Hugging "
        "Face transformers; mmocr: for MMOCR",
    )  # fmt: skip
    parser.add_argument(
        "--dtype", choices=tuple(ONNX_FILES),
        help="onnx: float16 halves the file; int8 quantizes most weights, which leaves about "
        "a third, and changes some entities: evaluate it. Default: float32",
    )  # fmt: skip
    parser.add_argument(
        "--labels", choices=LABELS,
        help="onnx, hf: in config.json, rename E- tags to I- and S- tags to B-, for the pipelines of Optimum "
        "and transformers. Default: as trained",
    )  # fmt: skip
    parser.set_defaults(run=_export)


def _export(options: argparse.Namespace) -> None:
    if options.dtype and options.to != "onnx":
        raise UserError(f"--dtype {options.dtype}: applies only to --to onnx. Omit --dtype.")
    if options.labels and options.to == "stablehlo":
        raise UserError(f"--labels {options.labels}: does not apply to --to stablehlo. Omit it.")
    model, report = open_model(options.model, "MODEL")
    for note in report.notes if report else ():
        warnings.warn(f"{options.model}: {note}", stacklevel=2)
    if options.to == "onnx":
        message = export_onnx(model, options.out, options.dtype or "float32", options.labels)
    elif options.to == "stablehlo":
        message = export_stablehlo(model, options.out)
    else:
        message = export(model, options.out, options.to, options.labels, "--to")
    print(message)
