"""Command line: flax-ner completion."""

import argparse

from flax_ner.cli.main import make_parser
from flax_ner.errors import import_optional


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `completion`."""
    parser.description = (
        "Print a script with which the shell completes commands and options. Put it where the shell looks for "
        "completions, e.g. flax-ner completion bash > ~/.local/share/bash-completion/completions/flax-ner"
    )
    parser.add_argument("shell", choices=("bash", "zsh", "tcsh"))
    parser.set_defaults(run=_completion)


def _completion(options: argparse.Namespace) -> None:
    shtab = import_optional("shtab", "flax-ner completion", "shtab>=1.7")
    parser = make_parser()
    parser.prog = "flax-ner"
    print(shtab.complete(parser, options.shell))
