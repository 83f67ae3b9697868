"""Command line: python -m flax_ner data download."""

import argparse
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

from flax_ner.text.cluener_archive import ARCHIVE, SPLITS, URL, download_cluener


def add_download_command(
    data_commands: "argparse._SubParsersAction[argparse.ArgumentParser]",
) -> None:
    """Add `download` to the sub-commands of `data`."""
    download = data_commands.add_parser(
        "download", help="fetch a published data set",
        description="Fetch a published data set, check its counts and unpack it. A transfer that broke off "
        "goes on where it stopped; what is there already is not fetched again.",
    )  # fmt: skip
    download.add_argument("name", metavar="NAME", choices=("cluener",), help="cluener: CLUENER2020")
    download.add_argument(
        "--to", metavar="FOLDER", default="data/cluener", help="default: %(default)s"
    )
    download.add_argument("--url", default=URL, help="of the archive; default: %(default)s")
    download.set_defaults(run=_download)


def _download(options: argparse.Namespace) -> None:
    folder = Path(options.to)
    columns = TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn()
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(ARCHIVE, total=None)
        new = download_cluener(
            folder, options.url, lambda done, total: bar.update(task, completed=done, total=total)
        )
    if not new:
        print(f"{folder}: all there")
    for name, counts in SPLITS.items():
        print(f"{folder / name}: {counts}")
