"""Measure one GPU within eight minutes: fine-tuning, training, tagging and pre-training.

    python benchmarks/gpu.py data/cluener vocab.txt [--encoder DIR] [--text FILE] [--out DIR] [--budget 480]

The parts run in the order of their importance, each in its own process:

    softmax       train.py fine-tunes --encoder on CLUENER with the defaults, in bfloat16: wall time and F1
    base          training steps of BERT-base (random weights): sentences per second and MFU
    tagging       texts per second of models of 12 x 384 and 12 x 768
    masked_lm     train.py pre-trains BERT-base on --text: steps and tokens per second, MFU
    crf           as softmax, with a CRF and BIOES tags
    cudnn         model.attention=cudnn compared with float32 attention, and its training steps
    epochs        four epochs of BERT-base with train.py, with a cold and a warm compilation cache
    transformers  the same training and tagging with transformers, if PyTorch has the GPU too

A part that does not fit into the rest of --budget (seconds) is skipped. A part that fails or takes too long
does not stop the others. --out gets results.md and results.jsonl, which are rewritten as results arrive, and
log.txt with the output of all parts. All times include compilation only where a column says so; the
compilation cache is empty at the start, unless JAX_COMPILATION_CACHE_DIR is set.

MFU is relative to the rate of one large bfloat16 matrix product in the same run, and counts only the model's
matrix products. Without a GPU, the script runs tiny sizes on the CPU and prints that it does. That only shows
that the script works. The exit status is 1 if a part failed.
"""

import argparse
import contextlib
import json
import math
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from gpu_parts import CHECK, PARTS, Part, Row

SLACK_SECONDS = 15  # of the budget, for the imports of this process and the end


class Report:
    """Print results, and write them to a folder as they arrive.

    Args:
        folder: receives results.md and results.jsonl; None: only print.
    """

    def __init__(self, folder: Path | None):
        self._folder, self._markdown = folder, ""
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
            for name in ("results.md", "results.jsonl"):
                (folder / name).unlink(missing_ok=True)

    def add_row(self, part: str, row: Row) -> None:
        """Append a result to results.jsonl."""
        if self._folder is not None:
            with (self._folder / "results.jsonl").open("a", encoding="utf-8") as file:
                file.write(json.dumps({"part": part} | row) + "\n")

    def add_part(self, title: str, rows: list[Row], note: str) -> None:
        """Print the table of a part, and write the report with it."""
        text = f"\n## {title}\n\n" + (f"{table(rows)}\n\n" if rows else "") + f"{note}\n"
        print(text, end="", flush=True)
        self._markdown += text
        if self._folder is not None:
            (self._folder / "results.md").write_text(self._markdown.lstrip(), encoding="utf-8")


def table(rows: list[Row]) -> str:
    """Return a Markdown table with a column for each key of the rows."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    lines = [f"| {' | '.join(columns)} |", f"| {' | '.join('---' for _ in columns)} |"]
    lines += [f"| {' | '.join(cell(row.get(name, '')) for name in columns)} |" for row in rows]
    return "\n".join(lines)


def cell(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {item}" for name, item in value.items())
    return str(value)


def run_part(
    name: str, part: Part, limit: float, options: list[str], log: Path, report: Report
) -> tuple[list[Row], str]:
    """Run a part in a process of its own.

    Args:
        name: name of the part.
        part: the part.
        limit: seconds after which the process and its children are killed.
        options: command-line options of the process.
        log: file to which the process's output is appended.
        report: receives the rows as they arrive.

    Returns:
        The rows, and a sentence that says how the part ended: with "failed" or "stopped" if not well.
    """
    command = [sys.executable, __file__, *options, "--part", name]
    begin, rows = time.monotonic(), list[Row]()
    late = threading.Event()
    with log.open("a", encoding="utf-8") as file:
        offset = file.tell()
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=file, text=True, process_group=0
        )

    def stop() -> None:
        late.set()
        kill(process)

    timer = threading.Timer(limit, stop)
    timer.start()
    with process:
        try:
            assert process.stdout is not None
            for line in process.stdout:
                rows.append(json.loads(line))
                report.add_row(name, rows[-1])
            status = process.wait()
        finally:
            timer.cancel()
            kill(process)  # its children, too, if it failed or was interrupted
    seconds = time.monotonic() - begin
    report.add_row(name, {"part_seconds": round(seconds, 1)})
    skipped = next((row["skipped"] for row in rows if "skipped" in row), "")
    rows = [row for row in rows if "skipped" not in row]
    if late.is_set():
        return rows, f"The part was stopped after {seconds:.0f} s. {len(rows)} rows were measured."
    if status:
        tail = log.read_bytes()[offset:].decode("utf-8", "replace").splitlines()[-15:]
        return rows, f"The part failed after {seconds:.0f} s:\n\n" + "\n".join(
            f"    {line}" for line in tail
        )
    return rows, f"Skipped: {skipped}" if skipped else f"The part took {seconds:.0f} s."


def kill(process: "subprocess.Popen[str]") -> None:
    """Kill a process and its children. SIGTERM would let train.py save its state first."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def measure_all(options: argparse.Namespace, log: Path) -> bool:
    """Run all parts within the budget. Return whether all of them succeeded."""
    begin = time.monotonic()
    report = Report(options.out)
    arguments = [str(options.data), str(options.vocab)]
    for name in ("encoder", "text"):
        if path := getattr(options, name):
            arguments += [f"--{name}", str(path)]
    rows, note = run_part("check", CHECK, CHECK.seconds, arguments, log, report)
    if not rows:
        report.add_part(CHECK.title, rows, note)
        return False
    device = rows[0]
    reduced = device["backend"] != "gpu"
    if reduced:
        print(
            f"jax finds no GPU, only {device['device']}. Tiny models show that the script works.\n"
            "The numbers below say nothing about a GPU."
        )
        # Programs run for a moment only, so compile without LLVM's optimizations.
        os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0")
    report.add_part(CHECK.title, rows, note)
    arguments += ["--peak", str(device["matmul_tflops"]), *(["--reduced"] if reduced else [])]
    failed = False
    for name, part in PARTS.items():
        left = options.budget - SLACK_SECONDS - (time.monotonic() - begin)
        if part.needs and getattr(options, part.needs) is None:
            report.add_part(part.title, [], f"Skipped: it needs --{part.needs}.")
        elif left < part.seconds:
            why = f"Skipped: it takes about {part.seconds} s, and {max(left, 0):.0f} s are left."
            report.add_row(name, {"skipped": why})
            report.add_part(part.title, [], why)
        else:
            limit = left if reduced else min(2 * part.seconds, left)
            rows, note = run_part(name, part, limit, arguments, log, report)
            report.add_part(part.title, rows, note)
            failed |= note.startswith(("The part failed", "The part was stopped"))
    print(f"\nAll parts took {time.monotonic() - begin:.0f} s.")
    return not failed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, help="folder with CLUENER's train.json and dev.json")
    parser.add_argument("vocab", type=Path, help="vocab.txt of 21,128 tokens")
    parser.add_argument("--encoder", type=Path, help="pre-trained encoder to fine-tune")
    parser.add_argument("--text", type=Path, help="plain text to pre-train on, also .xz or .gz")
    parser.add_argument("--out", type=Path, help="folder for results.md, results.jsonl, log.txt")
    parser.add_argument("--budget", type=float, default=480, help="seconds for everything")
    parser.add_argument("--part", choices=("check", *PARTS), help=argparse.SUPPRESS)
    parser.add_argument("--peak", type=float, default=math.nan, help=argparse.SUPPRESS)
    parser.add_argument("--reduced", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    for name in ("data", "vocab", "encoder", "text"):
        if (path := getattr(options, name)) is not None:
            if not path.exists():
                sys.exit(f"{path}: not found. Check the argument {name}.")
            setattr(options, name, path.absolute())  # train.py runs in another folder
    if options.part:
        # Results have standard output to themselves; all else, also of child processes, goes to the log.
        results = os.fdopen(os.dup(1), "w")
        os.dup2(2, 1)
        part = CHECK if options.part == "check" else PARTS[options.part]
        for row in part.measure(options):
            print(json.dumps(row), file=results, flush=True)
        return
    with tempfile.TemporaryDirectory() as folder:
        os.environ["TMPDIR"] = folder  # so that nothing is left of a part that was killed
        os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", os.path.join(folder, "compiled"))
        os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.2")
        log = (options.out or Path(folder)) / "log.txt"
        log.parent.mkdir(parents=True, exist_ok=True)
        log.unlink(missing_ok=True)
        succeeded = measure_all(options, log)
    sys.exit(not succeeded)


if __name__ == "__main__":
    main()
