"""Advice for small data, few steps, and models without a correct entity, when training from scratch."""

import re
from pathlib import Path
from typing import Any

import pytest
from ml_collections import ConfigDict

from configs import cluener_scratch
from flax_ner.config_checks import check_config
from flax_ner.data.cluener import write_cluener
from flax_ner.data.synthetic import synthetic
from flax_ner.evaluation.metrics import Scores
from flax_ner.finetuning.task_data import read_task_data
from flax_ner.fit import fit
from flax_ner.text.examples import Example


def config(**changes: Any) -> ConfigDict:
    made = cluener_scratch.get_config()
    made.update_from_flattened_dict(
        {"model.hidden_size": 16, "model.num_hidden_layers": 1, "model.num_attention_heads": 2,
         "model.intermediate_size": 16, "data.format": "synthetic", "data.train": "train 60",
         "data.dev": "dev 20", "mesh.data": 1}
        | {name.replace("__", "."): value for name, value in changes.items()}
    )  # fmt: skip
    return made


def advice(made: ConfigDict) -> str:
    return " ".join(note for note in read_task_data(made).notes if note.startswith("Only"))


def settings(text: str) -> dict[str, Any]:
    """Return the settings that a message names as flags."""
    flags = re.findall(r"--config\.([\w.]+)=([\w.-]+)", text)
    return {name: int(v) if v.isdigit() else float(v) if v[0].isdigit() else v for name, v in flags}


@pytest.mark.parametrize(
    ("changes", "names"),
    [
        ({}, ["data.batch_size", "model.head", "optimizer.learning_rate", "train.steps"]),
        ({"train__epochs": 2000}, ["model.head", "optimizer.learning_rate"]),
        ({"model__head": "crf", "optimizer__learning_rate": 1e-4, "train__steps": 3000}, []),
        ({"train__gradient_accumulation_steps": 4}, []),  # does not divide a batch of 2
        ({"loss__label_smoothing": 0.1}, []),  # not with a CRF
    ],
)
def test_the_advice_for_small_data_is_valid(changes: dict[str, Any], names: list[str]) -> None:
    made = config(**changes)
    note = advice(made)
    assert note.startswith("Only 60 sentences and no pre-trained weights")
    changes = settings(note)
    assert sorted(changes) == names
    made.update_from_flattened_dict(changes)
    check_config(made)
    assert not settings(advice(made))


def test_the_suggested_batch_size_divides_by_the_devices() -> None:
    assert settings(advice(config(mesh__data=4)))["data.batch_size"] == 4
    assert settings(advice(config(mesh__data=2, mesh__fsdp=4)))["data.batch_size"] == 8


def test_few_steps_give_a_warning_with_a_sufficient_number() -> None:
    made = config(data__train="train 2000", train__epochs=2)
    note = advice(made)
    assert "steps and no pre-trained weights" in note and "sentences" not in note
    made.update_from_flattened_dict(settings(note))
    assert not advice(made)
    made.train.steps = 499
    assert settings(advice(made)) == {"train.steps": 2000}
    made.train.steps = 500
    assert not advice(made)


def run(made: ConfigDict, folder: Path, capsys: pytest.CaptureFixture[str]) -> tuple[Scores, str]:
    scores = fit(made, folder / "run")
    assert isinstance(scores, Scores) and not scores.correct
    return scores, " ".join(capsys.readouterr().out.split())


@pytest.mark.slow
def test_a_model_without_a_correct_entity_is_explained(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one = {"train__steps": 1, "optimizer__learning_rate": 1e-9}
    scores, note = run(config(**one), tmp_path / "wrong", capsys)
    assert scores.predicted and scores.gold
    claim = f"{scores.predicted:,} entities were predicted. None has the type and the boundaries"
    assert f"{claim} of one of the {scores.gold:,} gold entities" in note
    assert "Best dev scores" not in note

    files = {"data__format": "auto"}
    for split in ("train", "dev"):
        files[f"data__{split}"] = str(tmp_path / f"{split}.json")
    entity, *others = synthetic("train", 200)
    without_entities = [Example(example.text, ()) for example in others]
    write_cluener(tmp_path / "train.json", [entity, *without_entities])
    write_cluener(tmp_path / "dev.json", without_entities[:20])
    scores, note = run(config(**files, train__steps=1), tmp_path / "no gold", capsys)
    assert not scores.gold
    # A long path may be wrapped.
    claim = f"data.dev: {tmp_path}/dev.json has no entities, so these scores are meaningless."
    assert claim.replace(" ", "") in note.replace(" ", "")

    write_cluener(tmp_path / "dev.json", synthetic("dev", 20))
    much = {"train__steps": 20, "optimizer__learning_rate": 0.01}
    scores, note = run(config(**files, **much), tmp_path / "silent", capsys)
    assert not scores.predicted
    assert f"No entity was predicted; data.dev has {scores.gold:,}." in note
    assert settings(note.partition("No entity was predicted")[2])["model.head"] == "crf"
