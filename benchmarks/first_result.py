"""Measure the time from starting a command to its first tagged line, compared with PyTorch and ONNX Runtime.

    python benchmarks/first_result.py MODEL DATA [--rounds 5] [--torch-python PYTHON] [--base CHECKOUT]

MODEL is a model directory with the head softmax, DATA a labelled file whose first text is tagged. The model is
exported for transformers and ONNX Runtime. Each measurement is a whole process, and runs are interleaved:
`flax-ner predict` with an empty cache of compiled programs (cold) and again with the same cache (warm), the
same on the ONNX export, transformers' pipeline, and onnxruntime with tokenizers. Files are in the page cache.
--base names another checkout to compare with.

The second table has the parts of a process (first_result_way.py), the third the commands that load no model.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from common import ROOT, cpu_seconds, machine

from flax_ner.data.formats import read_examples

CACHE_VARIABLES = ("JAX_COMPILATION_CACHE_DIR", "JAX_ENABLE_COMPILATION_CACHE")
PARTS = ("import", "load", "first text", "second text")
Seconds = tuple[float, float]  # wall time and CPU time


def run(
    command: Sequence[str], text: Path | None, cache: Path, checkout: Path = ROOT
) -> tuple[Seconds, Seconds, str]:
    """Run a command with a text as its standard input.

    Args:
        command: the program and its arguments.
        text: file with the text; None: no input.
        cache: folder for compiled programs.
        checkout: the checkout from which flax_ner is imported.

    Returns:
        The time to the first line of output, the time to the end, and the standard error of the command.

    Raises:
        SystemExit: the command failed, or printed nothing.
    """
    environment = {k: v for k, v in os.environ.items() if k not in CACHE_VARIABLES}
    environment |= {"PYTHONPATH": str(checkout), "XDG_CACHE_HOME": str(cache)}
    with open(text or os.devnull) as source, tempfile.TemporaryFile("w+") as errors:
        begin = time.perf_counter()
        process = subprocess.Popen(
            command, stdin=source, stdout=subprocess.PIPE, stderr=errors, cwd=cache, env=environment
        )
        assert process.stdout is not None
        line = process.stdout.readline()
        first = time.perf_counter() - begin, cpu_seconds(process.pid)
        process.stdout.read()
        _, status, usage = os.wait4(process.pid, 0)
        end = time.perf_counter() - begin, usage.ru_utime + usage.ru_stime
        process.returncode = os.waitstatus_to_exitcode(status)  # os.wait4 has reaped it
        errors.seek(0)
        message = errors.read()
    if status or not line:
        sys.exit(f"{' '.join(command)} failed: {message}")
    return first, end, message


def cell(runs: Sequence[float]) -> str:
    return f"{statistics.median(runs):.2f} ({min(runs):.2f}, {max(runs):.2f})"


def measure_commands(
    commands: Mapping[str, tuple[Sequence[str], Path | None, Path]], rounds: int
) -> dict[str, list[tuple[Seconds, Seconds]]]:
    """Run each command (arguments, input, checkout) with an empty and a filled cache, in turns."""
    results: dict[str, list[tuple[Seconds, Seconds]]] = {}
    for number in range(rounds + 1):  # the first round fills the page cache and is not counted
        for name, (command, text, checkout) in commands.items():
            with tempfile.TemporaryDirectory() as cache:
                # Only flax_ner has a cache.
                for state in ("cold", "warm") if "predict" in command else ("",):
                    first, end, _ = run(command, text, Path(cache), checkout)
                    if number:
                        results.setdefault(f"{name}{state and ', '}{state}", []).append(
                            (first, end)
                        )
    return results


def print_commands(results: Mapping[str, list[tuple[Seconds, Seconds]]]) -> dict[str, list[float]]:
    """Print a table with medians, minima and maxima; return the medians of its columns."""
    print(
        "\n| command | to the first line: CPU s | wall s | to the end: CPU s |\n| --- | --- | --- | --- |"
    )
    row = {}
    for name, runs in results.items():
        wall, cpu, end = zip(*((first[0], first[1], end[1]) for first, end in runs), strict=True)
        print(f"| {name} | {cell(cpu)} | {cell(wall)} | {cell(end)} |")
        row[name] = [round(statistics.median(column), 3) for column in (cpu, wall, end)]
    return row


def measure_parts(
    ways: Mapping[str, Sequence[str]], text: Path, rounds: int
) -> dict[str, list[float]]:
    """Print a table with the CPU time of the parts of each way; return the medians."""
    runs: dict[str, list[list[Seconds]]] = {}
    with tempfile.TemporaryDirectory() as warm:
        for number in range(rounds + 1):  # the first round fills the caches
            for name, command in ways.items():
                with tempfile.TemporaryDirectory() as empty:
                    cache = empty if "cold" in name else warm
                    *_, message = run(command, text, Path(cache))
                if number:
                    runs.setdefault(name, []).append(json.loads(message.splitlines()[-1]))
    print(f"\n| CPU s | {' | '.join(PARTS)} |\n|{' --- |' * (1 + len(PARTS))}")
    medians = {
        name: [
            round(statistics.median(cpu for _, cpu in part), 3)
            for part in zip(*all_parts, strict=True)
        ]
        for name, all_parts in runs.items()
    }
    for name, row in medians.items():
        print(f"| {name} | {' | '.join(f'{seconds:.2f}' for seconds in row)} |")
    return medians


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path, help="model directory with the head softmax")
    parser.add_argument("data", type=Path, help="labelled file, such as CLUENER's dev.json")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--torch-python", default=sys.executable, help="a Python with torch and transformers"
    )
    parser.add_argument("--base", type=Path, help="another checkout of this project")
    options = parser.parse_args()
    model, data, python = options.model.absolute(), options.data.absolute(), sys.executable
    way = str(ROOT / "benchmarks" / "first_result_way.py")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        text, hf, onnx = folder / "text.txt", str(folder / "hf"), str(folder / "onnx")
        text.write_text(read_examples(str(data), "auto")[0].text + "\n", "utf-8")
        convert = str(ROOT / "convert" / "flax_to_torch.py")
        run([python, convert, str(model), hf, "--layout", "hf", "--labels", "bio"], None, folder)
        flax_ner = [python, "-m", "flax_ner"]
        run([*flax_ner, "export", str(model), onnx, "--to", "onnx"], None, folder)

        checkouts = {"": ROOT} | ({" (base)": options.base.absolute()} if options.base else {})
        commands: dict[str, tuple[Sequence[str], Path | None, Path]] = {}
        for suffix, checkout in checkouts.items():
            for kind, path in (("predict", str(model)), ("predict, ONNX export", onnx)):
                commands[f"flax-ner {kind}{suffix}"] = [*flax_ner, "predict", path], text, checkout
        pipeline = [options.torch_python, way, "transformers", hf]
        onnxruntime = [python, way, "onnxruntime", onnx]
        commands |= {
            "transformers' pipeline": (pipeline, text, ROOT),
            "onnxruntime and tokenizers": (onnxruntime, text, ROOT),
        }
        print(f"{options.rounds} rounds, medians (minima, maxima)")
        row: dict[str, object] = {"rounds": options.rounds}
        row |= print_commands(measure_commands(commands, options.rounds))

        ours = [python, way, "flax_ner"]
        ways = {
            "flax_ner, cold": [*ours, str(model)],
            "flax_ner, warm": [*ours, str(model)],
            "flax_ner, ONNX export, warm": [*ours, onnx],
            "transformers' pipeline": pipeline,
            "onnxruntime and tokenizers": onnxruntime,
        }
        row["parts"] = measure_parts(ways, text, options.rounds)

        without_model = {
            "import flax_ner": [python, "-c", "import flax_ner; print()"],
            "flax-ner --help": [*flax_ner, "--help"],
            "flax-ner data stats": [*flax_ner, "data", "stats", str(data)],
        }
        row |= print_commands(
            measure_commands(
                {
                    f"{name}{suffix}": (command, None, checkout)
                    for name, command in without_model.items()
                    for suffix, checkout in checkouts.items()
                },
                options.rounds,
            )
        )
    print(f"\n`{json.dumps(row | machine('jax', 'flax', 'onnxruntime', 'tokenizers'))}`")


if __name__ == "__main__":
    main()
