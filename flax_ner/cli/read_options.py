"""Options of the commands that read labelled data: its format, and what its content does not tell."""

import argparse

from flax_ner.data.files import END_RULES, OFFSET_UNITS, ReadOptions
from flax_ner.data.formats import READERS
from flax_ner.data.tagged import READ_SCHEMES


def add_read_options(parser: argparse.ArgumentParser, name: str) -> None:
    """Add the options, for the data that the argument `name` gives."""
    group = parser.add_argument_group(
        "reading", f"What is assumed about {name} is printed. These options change it."
    )
    group.add_argument(
        "--from", dest="source_format", choices=("auto", *READERS), default="auto", metavar="FORMAT",
        help=f"{', '.join(READERS)}. Default: detected from the content",
    )  # fmt: skip
    group.add_argument("--encoding", default="", help="e.g. gb18030. Default: UTF-8")
    group.add_argument(
        "--token-column", default="", metavar="COLUMN",
        help="column of the tokens: its number from 1, or its name in the header. Default: detected",
    )  # fmt: skip
    group.add_argument(
        "--tag-column", default="", metavar="COLUMN", help="column of the tags. Default: detected"
    )
    group.add_argument(
        "--tag-scheme",
        choices=READ_SCHEMES,
        default="",
        help="scheme of the tags. Default: detected",
    )
    group.add_argument(
        "--end", choices=END_RULES, default="",
        help="whether the end of a span is inclusive, if spans do not repeat their text. Default: by format",
    )  # fmt: skip
    group.add_argument(
        "--offset-unit", choices=OFFSET_UNITS, default="",
        help="what offsets count, if spans do not repeat their text. Default: character",
    )  # fmt: skip


def read_options(options: argparse.Namespace) -> ReadOptions:
    """Return the values of the options of `add_read_options`."""
    columns: tuple[str, ...] = ()
    if options.token_column or options.tag_column:
        columns = (options.token_column, options.tag_column)
    return ReadOptions(
        options.encoding, columns, options.tag_scheme, options.end, options.offset_unit
    )
