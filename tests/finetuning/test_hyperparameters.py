"""Default batch size, epochs and learning rate, and the warning about a loss that does not decrease."""

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
from flax_ner.finetuning.hyperparameters import choose_hyperparameters, default_learning_rate
from flax_ner.finetuning.tagging import Tagging
from flax_ner.fit import fit
from flax_ner.text.encoding import TokenSet
from flax_ner.training.mesh import make_mesh
from flax_ner.training.workdir import fill_from_saved_config

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
def test_small_data_gets_small_batches_and_many_epochs(
    sentences: int, rows: int, epochs: int
) -> None:
    made = config()
    notes = choose_hyperparameters(made, tokens_of(sentences), 384)
    assert (made.data.batch_size, made.train.epochs) == (rows, epochs)
    assert notes == [
        f"Chosen by the size of the data and the encoder: data.batch_size={rows}, train.epochs={epochs}, "
        "optimizer.learning_rate=0.00014."
    ]


def test_set_values_are_kept() -> None:
    made = config(data__batch_size=7, train__epochs=3, optimizer__learning_rate=0.01)
    assert choose_hyperparameters(made, tokens_of(500), 384) == []
    assert [made.data.batch_size, made.train.epochs] == [7, 3]
    assert made.optimizer.learning_rate == 0.01


def test_epochs_depend_on_a_set_batch_size() -> None:
    made = config(data__batch_size=10)
    choose_hyperparameters(made, tokens_of(300), 384)
    steps_per_epoch = -(-300 * 40 // 128 // 10)
    assert made.train.epochs == -(-800 // steps_per_epoch)


def test_no_epochs_are_noted_if_steps_are_set() -> None:
    made = config(train__steps=10)
    assert "epochs" not in choose_hyperparameters(made, tokens_of(300), 384)[0]


@pytest.mark.parametrize("batching", ["pad", "bucket"])
def test_without_packing_a_row_is_one_sentence(batching: str) -> None:
    made = config(data__batching=batching)
    choose_hyperparameters(made, tokens_of(10748), 768)
    assert made.data.batch_size == 32


@pytest.mark.parametrize(("devices", "micro_batches"), [(8, 1), (1, 4), (4, 6)])
def test_rows_divide_by_devices_and_micro_batches(devices: int, micro_batches: int) -> None:
    made = config(mesh__data=devices, train__gradient_accumulation_steps=micro_batches)
    choose_hyperparameters(made, tokens_of(1000), 384)
    assert made.data.batch_size % devices == made.data.batch_size % micro_batches == 0


def test_the_learning_rate_decreases_with_the_width() -> None:
    assert default_learning_rate("adamw", 768, True) == 5e-5
    rates = [default_learning_rate("adamw", width, True) for width in (64, 256, 384, 768, 1024)]
    assert rates == sorted(rates, reverse=True)
    assert rates[0] == 1e-3


def test_too_many_devices_are_rejected_by_make_mesh() -> None:
    made = config(mesh__data=0, mesh__fsdp=16)
    choose_hyperparameters(made, tokens_of(1000), 384)
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
def test_only_the_cross_entropy_has_a_baseline(changes: dict[str, Any]) -> None:
    assert Tagging(small()).baseline is not None
    assert Tagging(small(**changes)).baseline is None


def test_the_baseline_of_a_crf_is_the_loss_of_its_transitions() -> None:
    softmax, crf = Tagging(small()).baseline, Tagging(small(model__head="crf")).baseline
    assert softmax is not None and crf is not None
    assert crf.loss < softmax.loss and "frequency" in softmax.known and "follows" in crf.known


def small(**changes: Any) -> ConfigDict:
    made = demo.get_config()
    made.update_from_flattened_dict(
        {"model.hidden_size": 64, "model.num_hidden_layers": 1, "model.num_attention_heads": 2,
         "model.intermediate_size": 64, "data.train": "train 600", "data.dev": "dev 20",
         "data.batch_size": 2, "train.epochs": 8, "mesh.data": 1, "train.steps_per_dispatch": 8}
        | {name.replace("__", "."): value for name, value in changes.items()}
    )  # fmt: skip
    return made


def warnings_in(output: str) -> list[str]:
    return re.findall(r"Step \d+: the loss is .*? new --workdir\.", " ".join(output.split()))


@pytest.mark.slow
@pytest.mark.parametrize("head", ["softmax", "crf"])
def test_a_loss_that_does_not_decrease_gives_a_warning_with_a_working_remedy(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], head: str
) -> None:
    fit(small(model__head=head, optimizer__learning_rate=1e-7), tmp_path / "stuck")
    (warning,) = warnings_in(capsys.readouterr().out)
    remedy = {
        name: float(value) for name, value in re.findall(r"--config\.([\w.]+)=(\S+)", warning)
    }
    assert list(remedy) == ["optimizer.learning_rate"]

    better = small(model__head=head)
    better.update_from_flattened_dict(remedy)
    scores = fit(better, tmp_path / "fixed")
    assert warnings_in(capsys.readouterr().out) == []
    assert scores.f1 > 0  # type: ignore[union-attr]


@pytest.mark.slow
@pytest.mark.every_python
def test_a_resumed_run_keeps_the_recorded_choices(tmp_path: Path) -> None:
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
    # The rules of another version or another number of devices might choose other values.
    recorded["data"]["batch_size"] += 1
    path.write_text(json.dumps(recorded))
    assert (
        fill_from_saved_config(made(), tmp_path).data.batch_size == recorded["data"]["batch_size"]
    )
