"""Bulk jobs with Ray workers: killed workers and interrupted commands do not change the output."""

import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from uuid import uuid4

import pytest

from flax_ner.serving.shards import tag_shard
from tests.serving.helpers import entities_of, fill

ROOT = Path(__file__).resolve().parents[2]
SHARDS, TEXTS = 6, 3_000


@pytest.fixture(scope="module")
def shards(model: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Return folders with the input and with the expected output, tagged in one process without Ray."""
    reason = "the tests of bulk jobs need Ray: pip install 'ray[data]'"
    pytest.importorskip("pyarrow", reason=reason)
    if not any((Path(folder) / "ray" / "data").is_dir() for folder in sys.path):
        pytest.skip(reason)
    import pyarrow as pa
    import pyarrow.parquet as pq

    from flax_ner import load

    source, expected = tmp_path_factory.mktemp("in"), tmp_path_factory.mktemp("expected")
    rng, tagger = random.Random(0), load(model)
    for i in range(SHARDS):
        rows = [
            {"id": i * TEXTS + j, "text": "".join(rng.choices("bio中", k=rng.randrange(40)))}
            for j in range(TEXTS)
        ]
        if i % 3 == 2:
            path = source / f"{i}.parquet"
            pq.write_table(pa.Table.from_pylist(rows), path)
        else:
            path = source / f"{i}.jsonl"
            path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        tag_shard(tagger, path, expected / path.name)
    return source, expected


# A Ray cluster needs a token. Without this one Ray creates one in the user's home.
ENVIRONMENT = os.environ | {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": uuid4().hex}


def start(*arguments: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "flax_ner", "bulk", *map(str, arguments)],
        cwd=ROOT, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def finish(process: subprocess.Popen[str]) -> str:
    output, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    return output


def descendants(process: subprocess.Popen[str]) -> dict[int, str]:
    """Return the ids and command lines of all processes that a process started, also indirectly."""
    parent, command = {}, {}
    for path in Path("/proc").glob("[0-9]*"):
        try:
            fields = (path / "stat").read_text().rpartition(")")[2].split()
            command[int(path.name)] = (path / "cmdline").read_text()
            parent[int(path.name)] = int(fields[1])
        except OSError:  # the process has ended
            continue
    pids = {process.pid}
    for _ in range(4):
        pids |= {pid for pid in parent if parent[pid] in pids}
    return {pid: command[pid] for pid in pids - {process.pid}}


def wait_until_half_done(process: subprocess.Popen[str], out: Path) -> None:
    """Wait until at least one shard is finished and others are being written."""
    deadline = time.monotonic() + 120
    while not (list(out.glob("[0-9]*")) and list(out.glob(".*.part"))):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.002)


def assert_same_shards(out: Path, expected: Path) -> None:
    """Assert that the output is equal byte for byte and has no other files."""
    names = sorted(path.name for path in expected.iterdir())
    assert sorted(path.name for path in out.glob("*") if path.name != ".lock") == [
        *names,
        "job.json",
    ]
    for name in names:
        assert (out / name).read_bytes() == (expected / name).read_bytes(), name


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="finds processes in /proc")
def test_a_killed_worker_does_not_change_the_output(
    model: str, shards: tuple[Path, Path], tmp_path: Path
) -> None:
    source, expected = shards
    job = start(model, source, tmp_path / "out", "--workers", 2)
    wait_until_half_done(job, tmp_path / "out")
    workers = [pid for pid, command in descendants(job).items() if "ray::MapWorker" in command]
    assert len(workers) == 2
    os.kill(workers[0], signal.SIGKILL)
    unfinished = SHARDS - len(list((tmp_path / "out").glob("[0-9]*")))
    assert unfinished > 0
    assert f"{SHARDS} shards tagged, 0 already done: {SHARDS * TEXTS:,} texts" in finish(job)
    assert_same_shards(tmp_path / "out", expected)


@pytest.mark.slow
def test_two_workers_tag_with_an_onnx_export(
    onnx_export: str, shards: tuple[Path, Path], tmp_path: Path
) -> None:
    source, expected = shards
    job = start(onnx_export, source, tmp_path / "out", "--workers", 2)
    assert f"{SHARDS} shards tagged, 0 already done: {SHARDS * TEXTS:,} texts" in finish(job)
    for path in expected.glob("*.jsonl"):
        assert entities_of(tmp_path / "out" / path.name) == entities_of(path)


@pytest.mark.slow
def test_a_killed_and_an_interrupted_job_resume_with_the_missing_shards(
    model: str, shards: tuple[Path, Path], tmp_path: Path, sigint: None
) -> None:
    (source, expected), out = shards, tmp_path / "out"
    job = start(model, source, out, "--workers", 2)
    wait_until_half_done(job, out)
    job.kill()
    job.communicate()
    done = len(list(out.glob("[0-9]*")))
    assert 0 < done < SHARDS
    # Resume immediately: workers of the killed job may still be running.
    job = start(model, source, out, "--workers", 2)
    next(line for line in job.stderr if "shards tagged" in line)
    job.send_signal(signal.SIGINT)
    *_, line = job.communicate(timeout=60)[1].splitlines()
    assert line == "flax_ner: interrupted. The same command tags the files that are missing."
    assert job.returncode == -signal.SIGINT
    assert not list(out.glob(".*.part")) and len(list(out.glob("[0-9]*"))) < SHARDS
    output = finish(start(model, source, out, "--workers", 2))
    tagged, skipped = map(
        int, re.match(r"(\d+) shards tagged, (\d+) already done", output).groups()
    )
    assert tagged + skipped == SHARDS and skipped >= done
    assert_same_shards(out, expected)
    assert f"0 shards tagged, {SHARDS} already done" in finish(start(model, source, out))


@pytest.fixture
def cluster(shards: object) -> Iterator[str]:
    """Start a cluster of one machine and return its address."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    command = [Path(sys.executable).with_name("ray"), "start", "--head", "--block", "--num-cpus=2"]
    with subprocess.Popen(
        [*command, f"--port={port}", "--include-dashboard=false", "--disable-usage-stats"],
        env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    ) as process:  # fmt: skip
        for line in process.stdout:
            if "Ray runtime started" in line:
                break
        yield f"127.0.0.1:{port}"
        for pid in [*descendants(process), process.pid]:  # a regular stop takes half a minute
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        process.communicate()


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="finds processes in /proc")
def test_an_error_in_a_cluster_worker_has_no_traceback(
    model: str, cluster: str, tmp_path: Path
) -> None:
    source = fill(tmp_path / "in", "b", "b")
    (source / "1.jsonl").write_text('{"text": "b"}\n{"text": null}\n')
    job = start(model, source, tmp_path / "out", "--address", cluster, "--workers", 2)
    _, errors = job.communicate(timeout=300)
    assert job.returncode == 1
    assert errors.splitlines()[-2:] == [
        f"flax_ner: {source / '1.jsonl'}:2: 'text' is null, but a text is a string. Correct it.",
        "  Shards that failed: 1, tagged: 1. After you have corrected the rows, the same command tags "
        "only those that failed.",
    ]
    assert "Traceback" not in errors
    assert (tmp_path / "out" / "0.jsonl").exists()
