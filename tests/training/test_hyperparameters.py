"""Batch size, epochs and learning rate that follow from data and encoder, and a loss that does not fall."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ml_collections import ConfigDict

from configs import demo
from flax_ner.config import default_config
from flax_ner.errors import UserError
from flax_ner.text.encoding import TokenSet
from flax_ner.training.hyperparameters import choose_training, suitable_rate
from flax_ner.training.loop import fit
from flax_ner.training.mesh import make_mesh
from flax_ner.training.tagging import Tagging
from flax_ner.training.workdir import fill_from_record

CHOSEN = ("data.batch_size", "train.epochs", "optimizer.learning_rate")


def tokens_of(sentences: int, length: int = 40) -> TokenSet:
    ids = np.zeros(sentences * length, np.int32)
    return TokenSet(ids, ids, np.full(sentences, length))


def config(**changes: Any) -> ConfigDict:
    made = default_config()
    made.update_from_flattened_dict(
        {"init_from": "weights", "data.max_length": 128, "mesh.data": 1}
        | {name.replace("__", "."): value for name, value in changes.items()}
    )
    return made


@pytest.mark.parametrize(
    ("sentences", "rows", "epochs"),
    [(50, 2, 100), (300, 2, 18), (1000, 4, 11), (3400, 8, 7), (10748, 8, 5), (1_000_000, 8, 5)],
)
def test_little_data_gets_small_batches_and_many_epochs(
    sentences: int, rows: int, epochs: int
) -> None:
    made = config()
    told = choose_training(made, tokens_of(sentences), 384)
    assert (made.data.batch_size, made.train.epochs) == (rows, epochs)
    assert told == [
        f"Chosen by the size of data and encoder: data.batch_size={rows}, train.epochs={epochs}, "
        "optimizer.learning_rate=0.0002."
    ]


def test_what_is_set_stays() -> None:
    made = config(data__batch_size=7, train__epochs=3, optimizer__learning_rate=0.01)
    assert choose_training(made, tokens_of(500), 384) == []
    assert [made.data.batch_size, made.train.epochs] == [7, 3]
    assert made.optimizer.learning_rate == 0.01


def test_epochs_follow_from_a_batch_size_that_is_set() -> None:
    made = config(data__batch_size=10)
    choose_training(made, tokens_of(300), 384)
    steps_per_epoch = -(-300 * 40 // 128 // 10)
    assert made.train.epochs == -(-800 // steps_per_epoch)


def test_steps_that_are_set_need_no_epochs() -> None:
    made = config(train__steps=10)
    assert "epochs" not in choose_training(made, tokens_of(300), 384)[0]


@pytest.mark.parametrize("batching", ["pad", "bucket"])
def test_a_row_of_one_sentence_counts_as_one(batching: str) -> None:
    made = config(data__batching=batching)
    choose_training(made, tokens_of(10748), 768)
    assert made.data.batch_size == 32


@pytest.mark.parametrize(("devices", "parts"), [(8, 1), (1, 4), (4, 6)])
def test_rows_divide_by_devices_and_micro_batches(devices: int, parts: int) -> None:
    made = config(mesh__data=devices, train__gradient_accumulation_steps=parts)
    choose_training(made, tokens_of(1000), 384)
    assert made.data.batch_size % devices == made.data.batch_size % parts == 0


def test_the_rate_falls_with_the_width() -> None:
    assert suitable_rate("adamw", 768, True) == 5e-5
    rates = [suitable_rate("adamw", width, True) for width in (64, 256, 384, 768, 1024)]
    assert rates == sorted(rates, reverse=True)
    assert rates[0] == 1e-3


def test_more_devices_than_there_are_are_refused_later() -> None:
    made = config(mesh__data=0, mesh__fsdp=16)
    choose_training(made, tokens_of(1000), 384)
    with pytest.raises(UserError, match=r"mesh\.fsdp"):
        make_mesh(0, 16, made.data.batch_size)


@pytest.mark.parametrize(
    "changes",
    [
        {"loss__name": "focal"},
        {"loss__label_smoothing": 0.1},
        {"train__r_drop": 1.0},
        {"model__head": "global_pointer"},
    ],
)
def test_a_loss_that_is_not_the_entropy_of_labels_is_not_compared(changes: dict[str, Any]) -> None:
    assert Tagging(small()).baseline is not None
    assert Tagging(small(**changes)).baseline is None


def test_a_crf_is_compared_with_what_its_transitions_alone_reach() -> None:
    softmax, crf = Tagging(small()).baseline, Tagging(small(model__head="crf")).baseline
    assert softmax is not None and crf is not None
    assert crf.loss < softmax.loss and "frequent" in softmax.known and "follows" in crf.known


def small(**changes: Any) -> ConfigDict:
    made = demo.get_config()
    made.update_from_flattened_dict(
        {"model.hidden_size": 64, "model.num_hidden_layers": 1, "model.num_attention_heads": 2,
         "model.intermediate_size": 64, "data.train": "train 600", "data.dev": "dev 20",
         "data.batch_size": 2, "train.epochs": 8, "mesh.data": 1, "train.steps_per_dispatch": 8}
        | {name.replace("__", "."): value for name, value in changes.items()}
    )  # fmt: skip
    return made


def told_of(output: str) -> list[str]:
    return re.findall(r"Step \d+: the loss is .*? new --workdir\.", " ".join(output.split()))


@pytest.mark.slow
@pytest.mark.parametrize("head", ["softmax", "crf"])
def test_a_loss_that_does_not_fall_is_told_with_a_remedy_that_works(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], head: str
) -> None:
    fit(small(model__head=head, optimizer__learning_rate=1e-7), tmp_path / "stuck")
    (told,) = told_of(capsys.readouterr().out)
    remedy = {name: float(value) for name, value in re.findall(r"--config\.([\w.]+)=(\S+)", told)}
    assert list(remedy) == ["optimizer.learning_rate"]

    better = small(model__head=head)
    better.update_from_flattened_dict(remedy)
    scores = fit(better, tmp_path / "mended")
    assert told_of(capsys.readouterr().out) == []
    assert scores.f1 > 0  # type: ignore[union-attr]


def test_a_run_records_what_was_chosen_and_keeps_it(tmp_path: Path) -> None:
    def made() -> ConfigDict:
        changed = small(train__steps=4)
        with changed.unlocked():
            changed.data.batch_size = changed.train.epochs = changed.optimizer.learning_rate = None
        return changed

    fit(made(), tmp_path)
    path = tmp_path / "config.json"
    recorded = json.loads(path.read_text())
    chosen = [recorded[name.split(".")[0]][name.split(".")[1]] for name in CHOSEN]
    assert None not in chosen
    # Other rules, or another number of devices, might choose otherwise when the run is resumed.
    recorded["data"]["batch_size"] += 1
    path.write_text(json.dumps(recorded))
    assert fill_from_record(made(), tmp_path).data.batch_size == recorded["data"]["batch_size"]
