"""Bulk jobs with one worker in this process: when they start, what they tag, and what they report."""

import json
import os
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from flax_ner.errors import UserError
from flax_ner.serving import bulk
from flax_ner.serving.bulk import plan_workers, tag_files
from flax_ner.weights.model_dir import load_model, save_model
from tests.serving.helpers import entities_of, fill

ROOT = Path(__file__).resolve().parents[2]
SHARDS, TEXTS = 6, 3_000


def test_workers_share_the_resources_of_the_machines() -> None:
    assert plan_workers([{"CPU": 2.0, "node:1": 1.0}], None) == (1, {"num_cpus": 2})
    assert plan_workers([{"CPU": 5.0}], 2) == (2, {"num_cpus": 2})
    assert plan_workers([{"CPU": 8.0}, {"CPU": 8.0}, {"CPU": 0.0}], None) == (2, {"num_cpus": 8})
    assert plan_workers([{"CPU": 8.0}, {"CPU": 4.0}], 4) == (4, {"num_cpus": 2})
    # All machines have work, unless one is too small to matter.
    assert plan_workers([{"CPU": 4.0}, {"CPU": 16.0}], None) == (5, {"num_cpus": 4})
    assert plan_workers([{"CPU": 1.0}, {"CPU": 64.0}], None) == (1, {"num_cpus": 64})
    assert plan_workers([{"CPU": 0.0}], None) == (0, {"num_cpus": 0})
    assert plan_workers([{"CPU": 8.0, "GPU": 4.0}, {"CPU": 8.0}], None) == (4, {"num_gpus": 1})
    with pytest.raises(UserError, match="--workers 3: there are 2 cores"):
        plan_workers([{"CPU": 2.0}], 3)
    with pytest.raises(UserError, match="--workers 3: there are 2 GPUs"):
        plan_workers([{"CPU": 64.0, "GPU": 2.0}], 3)


def test_files_with_special_names_are_shards_only_if_they_are_named(tmp_path: Path) -> None:
    for name in ("a.jsonl", "_b.jsonl", ".c.jsonl", "_SUCCESS", ".DS_Store", "notes.txt"):
        (tmp_path / name).write_text('{"text": "a"}\n')
    with pytest.warns(UserWarning, match=r"not shards: \.c\.jsonl, _b\.jsonl, notes\.txt$"):
        assert [path.name for path in bulk._list_shards(tmp_path)] == ["a.jsonl"]
    assert bulk._list_shards(tmp_path / "_b.jsonl") == [tmp_path.resolve() / "_b.jsonl"]


@pytest.fixture
def in_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Run jobs without Ray, with one worker in this process."""

    def run_workers(
        todo: list[Path], folder: Path, job: dict[str, str | None], *_: object
    ) -> Iterator:
        worker = bulk._Worker(job, 0)
        for shard in todo:
            answer = worker({"source": [str(shard)], "target": [str(folder / shard.name)]})
            yield {name: value for name, (value,) in answer.items()}

    monkeypatch.setattr(bulk, "_run_workers", run_workers)
    monkeypatch.setattr(bulk, "keep_compiled_programs", lambda: None)


@pytest.mark.usefixtures("in_process")
def test_finished_shards_are_skipped_unless_their_input_is_newer(
    model: str, tmp_path: Path
) -> None:
    source, out = fill(tmp_path / "in", "b", "bi", "ob"), tmp_path / "out"
    assert tag_files(model, str(source), str(out)).startswith(
        "3 shards tagged, 0 already done: 3 texts, 3 entities"
    )
    first = (out / "0.jsonl").stat().st_mtime_ns
    (out / "1.jsonl").unlink()
    (source / "2.jsonl").write_text('{"text": "bob"}\n')
    later = time.time() + 5
    os.utime(source / "2.jsonl", (later, later))
    assert tag_files(model, str(source), str(out)).startswith(
        "2 shards tagged, 1 already done: 2 texts, 3 entities"
    )
    assert (out / "0.jsonl").stat().st_mtime_ns == first
    assert sorted(path.name for path in out.glob("[!.]*")) == [
        "0.jsonl", "1.jsonl", "2.jsonl", "job.json",
    ]  # fmt: skip


@pytest.mark.usefixtures("in_process")
def test_an_onnx_export_tags_shards_as_its_model_does(
    model: str, onnx_export: str, tmp_path: Path
) -> None:
    source = fill(tmp_path / "in", "b", "bi o bii", "", "中" * 200 + "bi")
    for used, out in ((model, "jax"), (onnx_export, "onnx")):
        assert tag_files(used, str(source), str(tmp_path / out)).startswith(
            "4 shards tagged, 0 already done: 4 texts, 4 entities"
        )
    for i in range(4):
        name = f"{i}.jsonl"
        assert entities_of(tmp_path / "onnx" / name) == entities_of(tmp_path / "jax" / name)


@pytest.mark.usefixtures("in_process")
def test_a_model_that_was_replaced_at_its_path_is_another_job(model: str, tmp_path: Path) -> None:
    current = tmp_path / "current"
    shutil.copytree(model, current)
    source, out = fill(tmp_path / "in", "b"), tmp_path / "out"
    tag_files(str(current), str(source), str(out))
    changed = load_model(model)
    changed.params["head"]["classifier"]["bias"] += 1
    shutil.rmtree(current)
    save_model(current, changed)
    (source / "1.jsonl").write_text('{"text": "bi"}\n')
    with pytest.raises(
        UserError, match=r"has shards of another model: the files of .*current have"
    ):
        tag_files(str(current), str(source), str(out))
    job = json.loads((out / "job.json").read_text())
    del job["model_sha256"]  # as earlier versions wrote it
    (out / "job.json").write_text(json.dumps(job))
    assert tag_files(str(current), str(source), str(out)).startswith("1 shards tagged, 1 already")


@pytest.mark.usefixtures("in_process")
def test_another_job_in_the_same_folder_is_an_error(model: str, tmp_path: Path) -> None:
    source, out = fill(tmp_path / "in", "b"), tmp_path / "out"
    tag_files(model, str(source), str(out))
    with pytest.raises(
        UserError, match=r"compute_dtype was None, is 'bfloat16'; input was .*; text_field"
    ):
        tag_files(
            model,
            str(fill(tmp_path / "other", "b")),
            str(out),
            text_field="x",
            compute_dtype="bfloat16",
        )
    (out / "job.json").write_text("{")
    with pytest.raises(UserError, match=r"job\.json is damaged"):
        tag_files(model, str(source), str(out))
    (out / "job.json").unlink()
    with pytest.raises(UserError, match=r"has files but no job\.json"):
        tag_files(model, str(source), str(out))
    with pytest.raises(UserError, match="is the folder of the shards"):
        tag_files(model, str(source / "0.jsonl"), str(source))


@pytest.mark.usefixtures("in_process")
def test_a_job_resumes_through_other_paths_to_the_same_files(model: str, tmp_path: Path) -> None:
    source, out = fill(tmp_path / "in", "b"), tmp_path / "out"
    (source / "linked.jsonl").symlink_to(fill(tmp_path / "elsewhere", "b") / "0.jsonl")
    for name, target in {"job": out, "input": source, "best": Path(model)}.items():
        (tmp_path / name).symlink_to(target)
    paths = [str(tmp_path / "in" / ".." / name) for name in ("best", "input", "job")]
    out.mkdir()
    assert tag_files(*paths).startswith("2 shards tagged, 0 already done")
    assert {path.name for path in out.glob("*.jsonl")} == {"0.jsonl", "linked.jsonl"}
    linked = str(source / "linked.jsonl")
    assert tag_files(model, str(source), str(out)).startswith("0 shards tagged, 2 already done")
    assert tag_files(model, linked, str(out)).startswith("0 shards tagged, 1 already done")
    job = json.loads((out / "job.json").read_text("utf-8"))
    links = {"model": str(tmp_path / "best"), "input": str(tmp_path / "input")}
    (out / "job.json").write_text(json.dumps(job | links))  # as earlier versions left it
    assert tag_files(*paths).startswith("0 shards tagged, 2 already done")


@pytest.mark.usefixtures("in_process")
def test_two_jobs_in_one_folder_at_once_are_an_error(model: str, tmp_path: Path) -> None:
    source, out = fill(tmp_path / "in", "b"), tmp_path / "out"
    with bulk._lock_output(out, {}), pytest.raises(UserError, match="another job is writing"):
        tag_files(model, str(source), str(out))


@pytest.mark.usefixtures("in_process")
def test_errors_are_reported_together_and_the_other_shards_are_tagged(
    model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, out = fill(tmp_path / "in", "b", "b", "b"), tmp_path / "out"
    (source / "0.jsonl").write_text('{"text": 1}\n')
    (source / "2.jsonl").write_text('{"body": ""}\n')
    (source / "notes.txt").write_text("")
    with (
        pytest.warns(UserWarning, match=r"ignored files that are not shards: notes\.txt"),
        pytest.raises(
            UserError,
            match=r"^\S*0\.jsonl:1: 'text' is int.*\n  \S*2\.jsonl:1: no field.*"
            r"\n  Shards that failed: 2, tagged: 1\. After you have corrected",
        ),
    ):
        tag_files(model, str(source), str(out))
    last = capsys.readouterr().err.splitlines()[-1]
    assert last == "1 of 3 shards tagged, 1 texts, 2 shards failed"
    assert sorted(path.name for path in out.glob("[!.]*")) == ["1.jsonl", "job.json"]
    # All workers report the missing model, but it is shown once. A failed job does not claim the folder.
    with pytest.raises(UserError, match=r"^model: no file or directory[^\n]*$"):
        tag_files(str(tmp_path / "none"), str(source / "1.jsonl"), str(tmp_path / "new"))
    tag_files(model, str(source / "1.jsonl"), str(tmp_path / "new"))


@pytest.mark.usefixtures("in_process")
def test_a_shard_that_kills_its_workers_is_reported(model: str, tmp_path: Path) -> None:
    source, out = fill(tmp_path / "in", "b", "b"), tmp_path / "out"
    job = {
        "model": model, "model_sha256": bulk._model_digest(Path(model)), "compute_dtype": None,
        "text_field": "text", "version": bulk.flax_ner.__version__,
    }  # fmt: skip
    worker = bulk._Worker(job, 0)
    out.mkdir()
    for i in range(3):
        (out / f".0.jsonl.{i}.part").touch()
    answer = worker({"source": [str(source / "0.jsonl")], "target": [str(out / "0.jsonl")]})
    assert "0.jsonl: 3 workers died while tagging this shard" in answer["error"][0]
    tag_files(model, str(source), str(out))  # the next job tries again and removes the part files
    assert not list(out.glob("*.part"))


def test_a_worker_that_sees_another_model_reports_it(model: str, tmp_path: Path) -> None:
    source, version = fill(tmp_path / "in", "b"), bulk.flax_ner.__version__
    job = {"model": model, "model_sha256": "another", "text_field": "text", "version": version}
    rows = {"source": [str(source / "0.jsonl")], "target": [str(tmp_path / "0.jsonl")]}
    (error,) = bulk._Worker(job, 0)(rows)["error"]
    assert (
        error
        == f"{model}: a worker has other files there than the job. Copy the model to every machine."
    )


def test_the_digest_of_a_model_follows_from_its_files(model: str, tmp_path: Path) -> None:
    assert bulk._model_digest(tmp_path / "owner" / "name") == ""  # on the hub
    weights, vocab = tmp_path / "model.pth", tmp_path / "vocab.txt"
    weights.write_bytes(b"1")
    vocab.write_text("a")
    digests = [bulk._model_digest(weights)]
    vocab.write_text("b")
    digests.append(bulk._model_digest(weights))
    (tmp_path / ".DS_Store").write_text("x")
    digests.append(bulk._model_digest(weights))
    assert digests[0] != digests[1] == digests[2] != bulk._model_digest(Path(model))


def test_invalid_arguments_are_reported_before_any_work(
    model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = fill(tmp_path / "in", "b")
    with pytest.raises(UserError, match="--workers 0: must be at least 1"):
        tag_files(model, str(source), str(tmp_path / "out"), workers=0)
    with pytest.raises(UserError, match=r"INPUT: .* is not a \*\.jsonl or \*\.parquet file"):
        tag_files(model, str(tmp_path / "none"), str(tmp_path / "out"))
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UserError, match=r"bulk: needs ray\. Run pip install 'ray"):
        tag_files(model, str(source), str(tmp_path / "out"))
