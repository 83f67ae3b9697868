"""Read and convert large annotation files of every format.

    python benchmarks/formats.py DATA WORK [--megabytes 100]

DATA is a folder with CLUENER's train.json. Its sentences are repeated until each file has about the given size.
`data stats` reads each file, and `data convert` writes it as CLUENER JSON lines (CLUENER as CoNLL). Each
command has a process of its own. Reported are processor seconds, for `data stats` also per megabyte and for a
file of half the size, to show that the time is linear, and peak memory.
"""

import argparse
import subprocess
import sys
from itertools import cycle, islice
from pathlib import Path

from flax_ner.data.formats import read_examples, write_examples

BRAT_DOCUMENTS = 10_000  # two files each
FORMATS = ("cluener", "conll", "doccano", "label_studio", "tokens", "prodigy", "brat")


def make(path: Path, data: Path, data_format: str, sentences: int) -> None:
    """Write a file of so many sentences unless it exists."""
    if not path.exists():
        examples = read_examples(str(data / "train.json"), "cluener")
        write_examples(path, list(islice(cycle(examples), sentences)), data_format)


# Not ru_maxrss: it starts at the value of the parent process.
COMMAND = """
import resource, sys
from pathlib import Path

from flax_ner.cli.main import main

main(["data", *sys.argv[1:]])
used = resource.getrusage(resource.RUSAGE_SELF)
peak = Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]
print(used.ru_utime + used.ru_stime, int(peak) / 1024)
"""


def measure(*arguments: str | Path) -> tuple[float, float]:
    """Return processor seconds and peak MiB of a subcommand of `data`."""
    command = [sys.executable, "-c", COMMAND, *map(str, arguments)]
    output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    seconds, peak = map(float, output.splitlines()[-1].split())
    return seconds, peak


def size(path: Path) -> float:
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files) / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("work", type=Path)
    parser.add_argument("--megabytes", type=float, default=100)
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    print(
        "| format | MB | sentences | stats: CPU s | s per MB | s per MB, half the size | peak MiB "
        "| peak MiB, half the size | convert: CPU s | peak MiB |\n"
        f"|{' --- |' * 10}"
    )
    for data_format in FORMATS:
        probe = options.work / f"probe.{data_format}"
        make(probe, options.data, data_format, 1000)
        sentences = int(1000 * options.megabytes / size(probe))
        if data_format == "brat":
            sentences = min(sentences, BRAT_DOCUMENTS)
        rates, peaks = [], []
        for count in (sentences // 2, sentences):
            path = options.work / f"{count}.{data_format}"
            make(path, options.data, data_format, count)
            seconds, peak = measure("stats", path)
            rates.append(seconds / size(path))
            peaks.append(peak)
        out = options.work / ("out.conll" if data_format == "cluener" else "out.json")
        out.unlink(missing_ok=True)  # of an interrupted run
        converting, converting_peak = measure("convert", path, out)
        out.unlink()
        print(
            f"| {data_format} | {size(path):.0f} | {sentences:,} | {seconds:.1f} | {rates[1]:.3f} | "
            f"{rates[0]:.3f} | {peaks[1]:,.0f} | {peaks[0]:,.0f} | {converting:.1f} | {converting_peak:,.0f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
