"""Tag and train on a million sentences: throughput, memory, pauses between epochs, recovery from a kill.

    python benchmarks/million.py make DATA VOCAB WORK [--sentences 1000000] [--shards 40]
    python benchmarks/million.py tag WORK [--model DIR]
    python benchmarks/million.py train DATA WORK [--minutes 60]

`make` repeats the sentences of DATA/train.json (CLUENER) with a number after each, so that all differ. It
writes them as one file with entities, as one file and as shards without, and makes an untrained model of 2
layers x 128. With a small model, reading, packing and writing take a large share of the time.

`tag` runs `predict`, then `bulk` with two Ray workers. The untrained model predicts 25 entities per sentence;
--model names one that is trained, such as WORK/run/best. The first `bulk` is killed with all its processes
when half of the shards are tagged, and the same command is run again. Both ways must write the same texts
in the same order, or the script fails. It prints how many texts have other entities. Scores may differ in
their last digits, because the batches differ.

`train` trains such a model for some minutes. It prints the memory of the process during each tenth of that
time, the usual seconds between two lines of metrics.jsonl, and those across the start of an epoch. Memory
is resident memory, which counts pages that the Ray workers share once per process. Needs psutil and the
extra `ray`.
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from itertools import cycle, islice
from pathlib import Path

import psutil
from common import ROOT, machine, random_model

from flax_ner.data.cluener import read_cluener, write_cluener
from flax_ner.text.vocab import read_vocab
from flax_ner.weights.model_dir import save_model

INTERRUPTED = 75  # exit status of a run that was stopped by `train.max_seconds`
SHAPE = {
    "hidden_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 512,
}


def make(options: argparse.Namespace) -> None:
    """Write the sentences and the model."""
    work, data = options.work, options.data
    (work / "texts").mkdir(parents=True)
    examples = islice(cycle(read_cluener(data / "train.json")), options.sentences)
    numbered = [replace(e, text=f"{e.text}{number}") for number, e in enumerate(examples)]
    write_cluener(work / "train.json", numbered)
    rows = [json.dumps({"text": example.text}, ensure_ascii=False) + "\n" for example in numbered]
    (work / "all.jsonl").write_text("".join(rows), "utf-8")
    size = -(-len(rows) // options.shards)
    for i in range(options.shards):
        shard = work / "texts" / f"{i:03}.jsonl"
        shard.write_text("".join(rows[i * size : (i + 1) * size]), "utf-8")
    save_model(work / "model", random_model(read_vocab(options.vocab), SHAPE))


def resident_mib(process: psutil.Process) -> list[float]:
    """Return the resident memory of a process, and of each process that has the model, for `bulk`."""
    sizes = []
    for each in (process, *process.children(recursive=True)):
        try:
            if each == process or "_Worker" in "".join(each.cmdline()):
                sizes.append(each.memory_info().rss / 2**20)
        except psutil.Error:  # it has ended
            continue
    return sizes


def run(command: Sequence[object], kill_at: tuple[Path, int] | None = None) -> dict[str, float]:
    """Run a command and measure it.

    Args:
        command: arguments of `python -m flax_ner`.
        kill_at: kill the command with all its processes as soon as a folder has so many files.

    Returns:
        Seconds, and the maximum memory in MiB of one process and of those that have the model together.
    """
    begin = time.perf_counter()
    one = together = 0.0
    job = psutil.Popen([sys.executable, "-m", "flax_ner", *map(str, command)], cwd=ROOT)
    while job.poll() is None:
        sizes = resident_mib(job)
        one, together = max(one, *sizes), max(together, sum(sizes))
        if kill_at and len(list(kill_at[0].glob("[!.]*"))) >= kill_at[1]:
            for process in (*job.children(recursive=True), job):
                process.kill()
            job.wait()
        time.sleep(0.5)
    if (job.returncode != 0) != (kill_at is not None):
        sys.exit(f"{command[0]} {'ended before the kill' if kill_at else 'failed'}")
    return {
        "seconds": round(time.perf_counter() - begin, 1),
        "mib_of_one": round(one),
        "mib_together": round(together),
    }


def compare(expected: Path, shards: Sequence[Path]) -> int:
    """Return how many texts have other entities, whatever their scores.

    Raises:
        SystemExit: a text is missing or at another place.
    """
    others = 0
    with expected.open("rb") as rows:
        for shard in shards:
            with shard.open("rb") as lines:
                for number, line in enumerate(lines, 1):
                    ours, other = json.loads(line), json.loads(next(rows, b'{"text": null}'))
                    if ours["text"] != other["text"]:
                        sys.exit(f"{shard}:{number}: not the text that one process wrote there")
                    a, b = (
                        [(e["type"], e["start"], e["end"]) for e in row["entities"]]
                        for row in (ours, other)
                    )
                    others += a != b
        if next(rows, None) is not None:
            sys.exit("The shards lack texts.")
    return others


def tag(options: argparse.Namespace) -> None:
    """Tag all texts with one process, and with two workers that are killed once."""
    work = options.work
    shards = sorted((work / "texts").iterdir())
    model = options.model or work / "model"
    predict = ["predict", model, work / "all.jsonl", "--format", "jsonl"]
    bulk = ["bulk", model, work / "texts", work / "out", "--workers", 2]
    results = {
        "one process": run([*predict, "--output", work / "all.out", "--force"]),
        "two workers, until the kill": run(bulk, (work / "out", len(shards) // 2 + 1)),
        "two workers, the rest": run(bulk),
    }
    others = compare(work / "all.out", [work / "out" / shard.name for shard in shards])
    print("| way | seconds | memory of one process, MiB | together, MiB |")
    print("| --- | --- | --- | --- |")
    for name, result in results.items():
        print(f"| {name} | {' | '.join(f'{value:,}' for value in result.values())} |")
    print(f"\n{others} texts with other entities")
    row = {**results, "other_texts": others, **machine("jax", "flax", "ray")}
    print(f"\n`{json.dumps(row)}`")


def train(options: argparse.Namespace) -> None:
    """Train for some minutes, and watch the memory and the lines of metrics.jsonl."""
    workdir, seconds = options.work / "run", round(options.minutes * 60)
    settings = {
        **{f"model.{name}": value for name, value in SHAPE.items()},
        "data.train": options.work / "train.json",
        "data.dev": options.data / "dev.json",
        "train.epochs": 1000,
        "train.max_seconds": seconds,
    }
    flags = [f"--config.{name}={value}" for name, value in settings.items()]
    command = [sys.executable, "train.py", "--config=configs/cluener_scratch.py"]
    job = psutil.Popen([*command, f"--workdir={workdir}", *flags], cwd=ROOT)
    begin, memory, arrivals = time.perf_counter(), list[tuple[float, float]](), list[float]()
    metrics = workdir / "metrics.jsonl"
    while job.poll() is None:
        now = time.perf_counter() - begin
        lines = metrics.read_bytes().count(b"\n") if metrics.exists() else 0
        arrivals += [now] * (lines - len(arrivals))
        if not memory or now - memory[-1][0] > 1:
            memory.append((now, resident_mib(job)[0]))
        time.sleep(0.02)
    if job.returncode != INTERRUPTED or not arrivals:
        sys.exit("train.py failed, or ended before it wrote metrics")
    rows = [json.loads(line) for line in metrics.read_text("utf-8").splitlines()]
    usual, across = list[float](), list[float]()
    for i in range(1, min(len(rows), len(arrivals))):
        if rows[i]["split"] == rows[i - 1]["split"] == "train":
            usual.append(arrivals[i] - arrivals[i - 1])
        elif rows[i - 1]["split"] == "dev":
            across.append(arrivals[i] - arrivals[i - 1])
    rates = [row["sentences_per_second"] for row in rows if row["split"] == "train"]
    first = arrivals[0]
    tenths = [
        round(max(mib for t, mib in memory if low <= t < low + (seconds - first) / 10 + 1))
        for low in (first + (seconds - first) * i / 10 for i in range(10))
    ]
    result = {
        "minutes": options.minutes,
        "epochs": rows[-1]["epoch"],
        "sentences_per_second": round(statistics.median(rates)),
        "mib_by_tenth": tenths,
        "seconds_until_first_line": round(first, 1),
        "seconds_between_lines": [round(f(usual), 2) for f in (statistics.median, max)],
        "seconds_across_epochs": [round(x, 2) for x in across],
        **machine("jax", "flax"),
    }
    print(f"`{json.dumps(result)}`")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    steps = parser.add_subparsers(dest="step", required=True)
    step = steps.add_parser("make")
    step.add_argument("data", type=Path, help="folder with CLUENER's train.json")
    step.add_argument("vocab", type=Path)
    step.add_argument("work", type=Path)
    step.add_argument("--sentences", type=int, default=1_000_000)
    step.add_argument("--shards", type=int, default=40)
    step.set_defaults(run=make)
    step = steps.add_parser("tag")
    step.add_argument("work", type=Path)
    step.add_argument("--model", type=Path, help="model directory; default: WORK/model")
    step.set_defaults(run=tag)
    step = steps.add_parser("train")
    step.add_argument("data", type=Path, help="folder with CLUENER's dev.json")
    step.add_argument("work", type=Path)
    step.add_argument("--minutes", type=float, default=60)
    step.set_defaults(run=train)
    options = parser.parse_args()
    for name in {"work", "data", "model"} & vars(options).keys():
        path = getattr(options, name)
        setattr(options, name, path and path.absolute())  # the commands run in another folder
    options.run(options)


if __name__ == "__main__":
    main()
