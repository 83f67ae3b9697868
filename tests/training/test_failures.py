"""One of two processes fails at any point: both end soon and print the error."""

import ast
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import pytest

from flax_ner.data.synthetic import synthetic
from flax_ner.model.bert import BertConfig
from flax_ner.model.tagging_model import init_params
from flax_ner.text.labels import LabelSet
from flax_ner.text.vocab import build_vocab
from flax_ner.weights.model_dir import ModelDir, save_model

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not hasattr(os, "fork"), reason="the system has no fork"),
]
ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("training", "finetuning", "distillation", "pretraining")
SHAPE = {
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 16,
}
# Run `fit` in two processes for each line of JSON, [point, process, workdir, changes]. The process raises an
# error at the point, and records the time. Print exit status and end time of each process.
RUNS = """
import importlib, json, os, signal, socket, sys, time
from pathlib import Path
from flax_ner.training import hosts

point, failing, stage = "", False, None

def fail(where):
    if failing and where == point:
        Path(stage).write_text(repr(time.time()))
        raise RuntimeError(f"deliberately at {where}")

def uses_fail(function):
    def used(action):
        frame = sys._getframe(1)
        where = f"{Path(frame.f_code.co_filename).name}:{frame.f_lineno}"
        def failing_action():
            fail(where)
            return action()
        if function.__name__ == "run_on_primary" and os.environ["JAX_PROCESS_ID"] != "0":
            fail(where)  # the action does not run in this process
        return function(failing_action)
    return used

run_on_all_hosts = hosts.run_on_all_hosts
hosts.run_on_all_hosts = uses_fail(run_on_all_hosts)
hosts.run_on_primary = uses_fail(hosts.run_on_primary)

from configs import demo, pretrain
from flax_ner.fit import fit

def calls_fail(name):
    module, _, names = name.partition(":")
    *owner, last = names.split(".")
    holder = importlib.import_module(module)
    for part in owner:
        holder = getattr(holder, part)
    function = getattr(holder, last)
    def called(*arguments, **named):
        fail(name)
        return function(*arguments, **named)
    setattr(holder, last, called)

started, ended = [], {}
def end(count):
    while len(ended) < count:
        pid, status = os.wait()
        ended[pid] = os.waitstatus_to_exitcode(status), time.time()

def run(index, where, process, workdir, changes, address):
    global point, failing, stage
    point, failing, stage = where, index == process, f"{workdir}.raised"
    signal.alarm(150)  # kills a process that hangs
    output = os.open(f"{workdir}.{index}", os.O_CREAT | os.O_WRONLY)
    os.dup2(output, 1), os.dup2(output, 2)
    os.environ |= {"JAX_COORDINATOR_ADDRESS": address, "JAX_NUM_PROCESSES": "2"}
    os.environ["JAX_PROCESS_ID"] = str(index)
    if ".py:" not in where:
        calls_fail(where)
    config = (pretrain if changes.get("task") == "masked_lm" else demo).get_config()
    config.update_from_flattened_dict(changes)
    fit(config, workdir)

for line in sys.stdin:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    for index in (0, 1):
        child = os.fork()
        if not child:
            run(index, *json.loads(line), address)
            sys.exit(0)
        started.append(child)
    end(len(started) - 4)  # up to six at once: they mostly wait
end(len(started))
print(json.dumps([ended[child] for child in started]))
"""


def uses() -> list[str]:
    """Return all calls that synchronise the processes, as FILE:LINE."""
    lines_of_files = []
    for path in sorted(p for name in FOLDERS for p in (ROOT / "flax_ner" / name).glob("*.py")):
        calls = [x for x in ast.walk(ast.parse(path.read_text("utf-8"))) if isinstance(x, ast.Call)]
        names = ("run_on_all_hosts", "run_on_primary")
        lines = [x.lineno for x in calls if isinstance(x.func, ast.Name) and x.func.id in names]
        lines_of_files += [f"{path.name}:{line}" for line in lines if path.name != "hosts.py"]
    return sorted(lines_of_files)


def teacher(path: Path) -> Path:
    """Save a tagger with the categories of the synthetic texts."""
    examples = synthetic("train", 64)
    labels = LabelSet(sorted({entity.type for x in examples for entity in x.entities or ()}), "bio")
    vocab = build_vocab((example.text for example in examples), 1)
    config = BertConfig(vocab_size=len(vocab), num_labels=len(labels), **SHAPE)
    save_model(path, ModelDir(config, labels, vocab, 64, init_params(config, jax.random.key(0))))
    return path


def test_a_failure_in_one_process_ends_both_with_its_error(tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("".join(f"{example.text}\n" for example in synthetic("train", 64)))
    tiny = {f"model.{name}": value for name, value in SHAPE.items()}
    tiny |= {"mesh.distributed": True, "data.batch_size": 8, "train.steps": 4}
    tagging = tiny | {"data.train": "train 64", "data.dev": "dev 8", "checkpoint.every": 2}
    of_file: dict[str, dict[str, Any]] = {
        "masked_lm.py": tiny
        | {"task": "masked_lm", "data.train": str(text), "data.dev": str(text)},
        "multi_seed.py": tagging | {"train.seeds": 2},
    }
    points = [(use, i % 2) for i, use in enumerate(uses())]
    assert len(points) > 10
    train, commit = "log:RunLog.train", "checkpoint:Checkpoints._commit"
    points += [(f"flax_ner.training.{name}", i) for name in (train, commit) for i in (0, 1)]
    # While the teacher tags the texts, and while dev is evaluated.
    points.append(("flax_ner.distillation.teacher:apply_temperature", 1))
    points.append(("flax_ner.inference.tagger:Tagger.score", 1))
    changes = [of_file.get(point.partition(":")[0], tagging) for point, _ in points]
    taught = {"distill.teacher": str(teacher(tmp_path / "teacher")), "data.scheme": "bio"}
    changes[-2] = tagging | taught
    lines = [
        json.dumps([*point, str(tmp_path / str(i)), change])
        for i, (point, change) in enumerate(zip(points, changes, strict=True))
    ]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    environment["XLA_FLAGS"] = os.environ["XLA_FLAGS"].replace("count=8", "count=1")
    printed = subprocess.run(
        [sys.executable, "-c", RUNS],
        cwd=ROOT, env=environment, input="\n".join(lines), capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    ended = json.loads(printed.splitlines()[-1])
    for i, (point, _) in enumerate(points):
        raised = tmp_path / f"{i}.raised"
        assert raised.exists(), f"no process reached {point}"
        for index in (0, 1):
            output = (tmp_path / f"{i}.{index}").read_text(errors="replace")
            status, end = ended[2 * i + index]
            assert status == 1, (point, index, output)
            assert f"RuntimeError: deliberately at {point}" in output, (point, index, output)
            assert end - float(raised.read_text()) < 30, (point, index, output)
