"""A tagger that a test can hold back, waiting for a condition, and a folder of shards."""

import json
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from flax_ner.weights.model_dir import ModelDir, save_model
from tests.inference.helpers import LABELS, VOCAB, hand_made_tagger

TAGGER = hand_made_tagger()


class GatedTagger:
    """The hand-made tagger. It records its batches, waits for `gate`, and fails on texts with "boom"."""

    def __init__(self) -> None:
        self.labels = TAGGER.labels
        self.batches: list[list[str]] = []
        self.gate = threading.Event()
        self.gate.set()

    def by_convention(self, texts: list[str], conventions: Sequence[str]) -> Any:
        self.batches.append(texts)
        assert self.gate.wait(30)
        if any("boom" in text for text in texts):
            raise RuntimeError(f"cannot tag {texts}")
        return TAGGER.by_convention(texts, conventions)


def save_hand_made(folder: Path) -> str:
    """Save the hand-made tagger as a model directory, and return its path."""
    tagger = hand_made_tagger()
    save_model(folder, ModelDir(tagger.config, LABELS, VOCAB, 64, tagger.params))
    return str(folder)


def until(condition: Callable[[], bool]) -> None:
    """Wait for a condition, at most 30 seconds."""
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)


def fill(folder: Path, *texts: str) -> Path:
    """Create a folder with one shard per text."""
    folder.mkdir(exist_ok=True)
    for i, text in enumerate(texts):
        (folder / f"{i}.jsonl").write_text(json.dumps({"text": text}) + "\n", "utf-8")
    return folder


def entities_of(path: Path) -> list[Any]:
    """Return what an output file has per text, without the scores, which differ by rounding."""
    rows = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    for row in rows:
        for entity in row["entities"]:
            del entity["score"]
    return rows
