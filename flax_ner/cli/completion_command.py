"""Command line: flax-ner completion."""

import argparse

from flax_ner.errors import import_optional


def add_completion_command(
    commands: "argparse._SubParsersAction[argparse.ArgumentParser]",
    parser: argparse.ArgumentParser,
) -> None:
    """Add `completion`, which prints a script that completes the options of `parser`."""
    completion = commands.add_parser(
        "completion", help="print a script for completion in the shell",
        description="Print a script with which the shell completes commands and options. Put it where the "
        "shell looks for completions, e.g. flax-ner completion bash > "
        "~/.local/share/bash-completion/completions/flax-ner",
    )  # fmt: skip
    completion.add_argument("shell", choices=("bash", "zsh", "tcsh"))

    def run(options: argparse.Namespace) -> None:
        shtab = import_optional("shtab", "flax-ner completion", "shtab>=1.7")
        parser.prog = "flax-ner"
        print(shtab.complete(parser, options.shell))

    completion.set_defaults(run=run)
