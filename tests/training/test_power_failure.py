"""Files of a run and of a tokenized text reach the disk in an order that survives a power failure."""

import json
from pathlib import Path

import pytest

from configs import demo
from flax_ner.data.corpus import make_corpus
from flax_ner.fit import fit
from flax_ner.text.tokenizer import CharTokenizer
from flax_ner.text.vocab import SPECIAL_TOKENS
from tests.disk import Disk
from tests.training.test_loop import small


@pytest.mark.slow
def test_files_of_a_run_are_on_disk_before_they_are_renamed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    metrics = tmp_path / "run" / "metrics.jsonl"

    def look(path: Path) -> None:
        if path.parent.name == "checkpoints":  # a resumed run needs the lines before it
            rows = [
                json.loads(x) for x in metrics.read_bytes()[: disk.size_of(metrics)].splitlines()
            ]
            logged = {(row["split"], row["step"]) for row in rows}
            step = int(path.name)
            assert ("train", step) in logged
            assert ("dev", step) in logged or step % 15

    disk = Disk(monkeypatch, on_rename=look)
    config = small(
        demo.get_config(), train__steps=30, checkpoint__every=10, checkpoint__keep=1, mesh__data=8
    )
    fit(config, tmp_path / "run")
    disk.check_renames_synced()
    assert disk.renamed[:3] == ["config.json", "inputs.json", "metrics.jsonl"]
    assert {"best", "last", "10", "20", "30"} <= set(disk.renamed)


def test_token_ids_are_on_disk_before_the_file_that_marks_them_complete(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer, text = CharTokenizer([*SPECIAL_TOKENS, "a", "b"]), tmp_path / "text.txt"
    folder = tmp_path / "run" / "text" / "train"

    def look(path: Path) -> None:
        for name in ("ids.bin", "lengths.bin"):
            assert disk.size_of(folder / name) == (folder / name).stat().st_size > 0

    disk = Disk(monkeypatch, on_rename=look)
    for content in ("ab\nb\n", "abab\n"):  # the second replaces the first
        text.write_text(content)
        make_corpus(folder, text, "data.train", tokenizer, skip=False)
        disk.check_renames_synced()
    assert disk.renamed == ["made_of.json"] * 2
