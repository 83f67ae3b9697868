"""Command line: python -m flax_ner data convert, merge and split."""

import argparse
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from flax_ner.cli.audit_command import add_audit_commands
from flax_ner.cli.download_command import add_download_command
from flax_ner.cli.read_options import add_read_options, read_options
from flax_ner.cli.select_command import add_select_command
from flax_ner.data.detection import COLUMN_SUFFIXES
from flax_ner.data.formats import WRITERS, read_examples, write_examples
from flax_ner.data.splitting import split_examples
from flax_ner.data.tagged import SCHEMES
from flax_ner.errors import UserError
from flax_ner.inference.outputs import add_force, check_output
from flax_ner.text.examples import Example

PARTS = ("train", "dev", "test")
DEFAULT_DEV_SHARE = 0.1


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the sub-commands of `data`."""
    data = parser.add_subparsers(required=True)

    convert = data.add_parser("convert", help="convert a data set to another format")
    convert.add_argument(
        "source", metavar="IN", help="file, folder of brat documents, or hub:owner/name:split"
    )
    convert.add_argument(
        "target", metavar="OUT", help="file; for brat a folder that does not exist yet"
    )
    _add_write_options(convert)
    convert.set_defaults(run=_convert)

    merge = data.add_parser(
        "merge", help="write several data sets into one file",
        description="Write several data sets into one file. A text that occurs twice with the same entities is "
        "written once.",
    )  # fmt: skip
    merge.add_argument("source", metavar="IN", nargs="+", help="data in any format")
    merge.add_argument("target", metavar="OUT", help="file to write")
    _add_write_options(merge)
    merge.set_defaults(run=_merge)

    split = data.add_parser(
        "split", help="divide a data set into training, dev and test data, or into folds",
        description="Divide a data set at random, with about the same share of every category in each part. "
        "All copies of a text are put into the same part.",
    )  # fmt: skip
    split.add_argument("source", metavar="IN", help="data in any format")
    split.add_argument(
        "target", metavar="FOLDER",
        help="folder for train.json, dev.json and test.json; with --folds, its folders are fold_1, fold_2, ...",
    )  # fmt: skip
    split.add_argument(
        "--dev", type=float, metavar="SHARE",
        help=f"share of the texts for dev.json. Default: {DEFAULT_DEV_SHARE}",
    )  # fmt: skip
    split.add_argument(
        "--test", type=float, metavar="SHARE",
        help="share of the texts for test.json. Default: none",
    )  # fmt: skip
    split.add_argument(
        "--folds", type=int, metavar="K",
        help="K pairs of files instead: each fold is dev.json once, the others are train.json",
    )  # fmt: skip
    split.add_argument("--seed", type=int, default=0, help="of the random order. Default: 0")
    _add_write_options(split)
    split.set_defaults(run=_split)
    add_audit_commands(data)
    add_select_command(data)
    add_download_command(data)


def _add_write_options(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--to", dest="target_format", choices=tuple(WRITERS), metavar="FORMAT",
        help=f"{', '.join(WRITERS)}; default: conll if OUT ends in {', '.join(COLUMN_SUFFIXES)}, else cluener",
    )  # fmt: skip
    command.add_argument(
        "--scheme", choices=tuple(SCHEMES), default="BIO", help="tag scheme for conll; default: BIO"
    )
    command.add_argument(
        "--skip", action="store_true", help="leave out unreadable records, and list them"
    )
    add_force(command)
    add_read_options(command, "IN")


def _convert(options: argparse.Namespace) -> None:
    check_output(options.target, "OUT", [options.source], options.force)
    _write(_read(options, options.source), options.target, options)


def _merge(options: argparse.Namespace) -> None:
    check_output(options.target, "OUT", options.source, options.force)
    examples = [example for source in options.source for example in _read(options, source)]
    labelled = {example.text for example in examples if example.entities is not None}
    kept = [e for e in examples if e.entities is not None or e.text not in labelled]
    if len(kept) < len(examples):
        print(
            f"{len(examples) - len(kept)} unlabelled texts occur again with a label, which is kept."
        )
    first: dict[Any, Example] = {}
    for example in kept:
        entities = None if example.entities is None else frozenset(example.entities)
        first.setdefault((example.text, entities), example)
    unique = list(first.values())
    if len(unique) < len(kept):
        print(f"{len(kept) - len(unique)} texts occur again with the same entities, written once.")
    contradictory = len(unique) - len({example.text for example in unique})
    if contradictory:
        print(
            f"{contradictory} texts occur again with other entities, all written. "
            "data check lists them."
        )
    _write(unique, options.target, options)


def _split(options: argparse.Namespace) -> None:
    parts = _part_files(options)
    _check_folder(options, parts)
    examples = _read(options, options.source)
    if options.folds:
        folds = split_examples(examples, [1 / options.folds] * options.folds, options.seed)
        contents: list[list[Example]] = []
        for fold in folds:
            in_fold = {id(example) for example in fold}
            contents += [[e for e in examples if id(e) not in in_fold], fold]
    else:
        shares = [1 - options.dev - options.test, options.dev, options.test]
        contents = [
            part
            for part, share in zip(
                split_examples(examples, shares, options.seed), shares, strict=True
            )
            if share
        ]
    for path, part in zip(parts, contents, strict=True):
        if not part:
            raise UserError(
                f"{path.name} would be empty: {options.source} has only {len(examples)} texts. Choose a larger "
                "share, or fewer folds."
            )
    for path, part in zip(parts, contents, strict=True):
        path.parent.mkdir(parents=True, exist_ok=True)
        _write(part, str(path), options)


def _check_folder(options: argparse.Namespace, parts: Sequence[Path]) -> None:
    """Raise `UserError` if a part would replace another file. Report parts of another split."""
    folder = Path(options.target)
    if folder.exists() and not folder.is_dir():
        raise UserError(f"FOLDER: {folder} is a file. Name another folder.")
    for path in parts:
        if path.parent.is_dir():
            check_output(str(path), "FOLDER", [options.source], options.force)
    found = {
        path
        for name in PARTS
        for pattern in (f"{name}*", f"fold_*/{name}*")
        for path in folder.glob(pattern)
        if path.stem == name and path.is_file() and path.suffix == parts[0].suffix
    }
    if others := sorted(str(path) for path in found - {*parts, Path(options.source)}):
        print(
            f"FOLDER: not parts of this split, and left there: {', '.join(others)}. Delete what an earlier "
            "split wrote."
        )


def _part_files(options: argparse.Namespace) -> list[Path]:
    """Return the files to write, in the order of the parts.

    Raises:
        UserError: the shares or the number of folds are invalid.
    """
    folder = Path(options.target)
    suffix = ".conll" if options.target_format == "conll" else ".json"
    if options.target_format == "brat":
        suffix = ""
    if options.folds is not None:
        if options.folds < 2:
            raise UserError(f"--folds: {options.folds}, but it must be at least 2.")
        if (options.dev, options.test) != (None, None):
            raise UserError("--folds: leave out --dev and --test. Each fold is dev data once.")
        names = [
            f"fold_{i}/{part}" for i in range(1, options.folds + 1) for part in ("train", "dev")
        ]
    else:
        options.dev = DEFAULT_DEV_SHARE if options.dev is None else options.dev
        options.test = options.test or 0.0
        for name in ("dev", "test"):
            if not 0 <= getattr(options, name) < 1:
                raise UserError(
                    f"--{name}: {getattr(options, name)}, but it must be from 0 to below 1."
                )
        if not 0 < options.dev + options.test < 1:
            raise UserError(
                "--dev and --test: give shares above 0 that leave texts for train.json."
            )
        shares = {"train": 1.0, "dev": options.dev, "test": options.test}
        names = [name for name, share in shares.items() if share]
    return [folder / f"{name}{suffix}" for name in names]


def _read(options: argparse.Namespace, source: str) -> list[Example]:
    """Read a data set, and print what was assumed and left out."""
    notes, skipped = list[str](), list[str]()
    examples = read_examples(
        source,
        options.source_format,
        "IN",
        skipped if options.skip else None,
        notes,
        read_options(options),
    )
    _print_lines(f"left out: {error}" for error in skipped)
    if skipped:
        print(
            f"IN: {len(skipped)} unreadable records of {source} are left out, with their entities."
        )
    _print_lines(notes)
    return examples


def _write(examples: Sequence[Example], target: str, options: argparse.Namespace) -> None:
    """Write a data set. Print what its format cannot represent."""
    columns = Path(target).suffix in COLUMN_SUFFIXES
    target_format = options.target_format or ("conll" if columns else "cluener")
    warnings = write_examples(target, examples, target_format, options.scheme)
    _print_lines(f"OUT: {warning}" for warning in warnings)
    entities = sum(len(example.entities or ()) for example in examples)
    print(
        f"Wrote {target} as {target_format} from {len(examples)} texts with {entities} entities. "
        f"Warnings: {len(warnings)}."
    )


def _print_lines(lines: Iterable[str]) -> None:
    for line in lines:
        print(line)
