"""Which settings and inputs may change when a run is resumed; runs and models of earlier versions."""

import json
import shutil
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from ml_collections import ConfigDict

import flax_ner
from configs import demo
from flax_ner import load
from flax_ner.config import default_config
from flax_ner.errors import UserError
from flax_ner.fit import fit
from flax_ner.training import workdir as rules
from flax_ner.training.workdir import (
    INPUT_SETTINGS,
    OPERATIONAL,
    TEACHER_INPUTS,
    lock_workdir,
    renamed_settings,
)
from flax_ner.weights.model_dir import load_model
from tests.weights.helpers import assert_same

# Written by fixtures/make_run.py; see there.
OLD = Path(__file__).parent / "fixtures" / "run_format_0"
STOPPED, STEPS = 153, 180


def old_config(**changes: Any) -> ConfigDict:
    """The configuration of the run in `OLD`, from its config.json."""
    config = demo.get_config()
    saved = json.loads((OLD / "run" / "config.json").read_text())
    known = flatten_dict(config.to_dict(), sep=".")
    config.update_from_flattened_dict(
        {
            name: tuple(value) if isinstance(known[name], tuple) else value
            for name, value in renamed_settings(saved).items()
        }
        | {name.replace("__", "."): value for name, value in changes.items()}
    )
    return config


@pytest.mark.slow
def test_a_run_of_the_first_format_resumes_with_other_operational_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(OLD, tmp_path / "as it was")
    shutil.copytree(OLD / "run", tmp_path / "moved")
    for split in ("train", "dev"):
        shutil.copy(OLD / f"{split}.json", tmp_path / f"moved_{split}.json")
    before = (OLD / "run" / "metrics.jsonl").read_text()

    monkeypatch.chdir(tmp_path / "as it was")
    # The same command today leaves these settings unset; they are filled in from the run.
    unset = dict.fromkeys(name.replace(".", "__") for name in rules.RESOLVED_SETTINGS)
    for _ in range(2):  # resumed again
        fit(old_config(**unset | {"tokenizer__kind": ""}), "run")
    changes = {
        "data__train": "moved_train.json", "data__dev": "moved_dev.json", "data__format": "auto",
        "checkpoint__every": 7, "checkpoint__keep": 9, "train__steps_per_dispatch": 20,
        "train__max_seconds": 600, "eval__batch_size": 8,
    }  # fmt: skip
    monkeypatch.chdir(tmp_path)
    fit(old_config(**changes), "moved")

    runs = tmp_path / "as it was" / "run", tmp_path / "moved"
    for run in runs:
        lines = (run / "metrics.jsonl").read_text()
        assert lines.startswith(before)
        steps = [json.loads(line)["step"] for line in lines[len(before) :].splitlines()]
        assert STOPPED < steps[0] <= STOPPED + 2 and steps[-1] == STEPS
        saved = json.loads((run / "config.json").read_text())
        assert (saved["format"], saved["flax_ner"]) == (1, flax_ner.__version__)
        text = "王建国在东海市工作。"
        assert load(run / "best").predict_proba(text).shape == (
            len(text),
            len(load(run / "best").labels),
        )
    one, other = (load_model(run / "last").params for run in runs)
    assert_same(one, other)
    kept = {int(folder.name) for folder in (tmp_path / "moved" / "checkpoints").iterdir()}
    assert kept == {STOPPED, 154, 161, 168, 175, STEPS}

    with pytest.raises(UserError, match=r"optimizer.learning_rate was 0\.02, is 0\.5"):
        fit(old_config(optimizer__learning_rate=0.5, **changes), "moved")


def test_a_model_of_the_first_format_gives_the_same_predictions() -> None:
    tagger = load(OLD / "run" / "best")
    with np.load(OLD / "logits.npz") as saved:
        logits = tagger.logits(saved["input_ids"], saved["attention_mask"])
        inside = saved["attention_mask"] > 0
        np.testing.assert_allclose(logits[inside], saved["logits"][inside], rtol=0, atol=1e-4)
    rows = [json.loads(line) for line in (OLD / "dev.json").read_text("utf-8").splitlines()]
    predicted = [[list(entity[:3]) for entity in row] for row in tagger([r["text"] for r in rows])]
    assert predicted == json.loads((OLD / "entities.json").read_text("utf-8"))
    assert sum(map(len, predicted)) == 7


# A digest of each kind of input.
DIGESTS = {
    "the vocabulary of data.train": "v", "data.train": "t", "data.dev": "d", "init_from": "i",
    "distill.teacher": "p", TEACHER_INPUTS: "r", "data.categories": "c",
}  # fmt: skip


def begin(folder: Path, config: ConfigDict | None = None, inputs: Any = DIGESTS) -> Path:
    """Return the work directory of a run with a checkpoint."""
    with lock_workdir(folder, config or default_config(), inputs):
        (folder / "checkpoints" / "1").mkdir(parents=True, exist_ok=True)
    return folder


def changed(name: str) -> ConfigDict:
    """Return the default configuration with a different value of one setting."""
    config = default_config()
    section, _, field = name.rpartition(".")
    kind = (config[section] if section else config).get_type(field)
    default = (config[section] if section else config)[field]
    others = {bool: not default, int: 7, float: 0.25, str: "other", tuple: ("other",)}
    config.update_from_flattened_dict({name: others[kind]})
    return config


@pytest.mark.parametrize("name", sorted(flatten_dict(default_config().to_dict(), sep=".")))
def test_a_setting_may_change_only_if_it_does_not_affect_the_result(
    tmp_path: Path, name: str
) -> None:
    begin(tmp_path)
    config = changed(name)
    if name in OPERATIONAL or name in INPUT_SETTINGS:
        with lock_workdir(tmp_path, config, DIGESTS):
            saved = json.loads((tmp_path / "config.json").read_text())
        assert flatten_dict(saved, sep=".")[name] == flatten_dict(config.to_dict(), sep=".")[name]
    else:
        with (
            pytest.raises(UserError, match=rf"another configuration: {name} was .*, is "),
            lock_workdir(tmp_path, config, DIGESTS),
        ):
            pass
    if name in INPUT_SETTINGS:  # without the digest of the old content, the path must not change
        (tmp_path / "config.json").write_text(default_config().to_json())
        (tmp_path / "inputs.json").unlink()
        with (
            pytest.raises(UserError, match=rf"another configuration: {name} was .*, is "),
            lock_workdir(tmp_path, config, DIGESTS),
        ):
            pass


@pytest.mark.parametrize(
    ("kind", "setting"), [(kind, setting) for setting, kind in INPUT_SETTINGS.items()]
)
def test_an_input_with_other_content_is_rejected(tmp_path: Path, kind: str, setting: str) -> None:
    begin(tmp_path)
    name = "the vocabulary of data.train" if kind == "vocabulary" else kind
    message = rf"started with other inputs: {name} \({setting} was .*, is 'other'\)\. Restore"
    with (
        pytest.raises(UserError, match=message),
        lock_workdir(tmp_path, changed(setting), DIGESTS | {name: "new"}),
    ):
        pass


def test_the_same_vocabulary_may_come_from_another_input_and_init_from_may_change(
    tmp_path: Path,
) -> None:
    begin(tmp_path)
    inputs = {name: digest for name, digest in DIGESTS.items() if "vocabulary" not in name}
    same = inputs | {"the vocabulary of tokenizer.vocab": "v"}
    with lock_workdir(tmp_path, changed("tokenizer.vocab"), same):
        pass
    with (
        pytest.raises(UserError, match=r"inputs: the vocabulary of tokenizer\.vocab "),
        lock_workdir(tmp_path, default_config(), same | {"the vocabulary of tokenizer.vocab": "w"}),
    ):
        pass
    begin(tmp_path / "other")
    with lock_workdir(tmp_path / "other", default_config(), DIGESTS | {"init_from": "newer"}):
        pass


def rewrite(folder: Path, **changes: Any) -> None:
    """Change fields of a run's config.json; None removes a field."""
    path = folder / "config.json"
    row = json.loads(path.read_text())
    for name, value in changes.items():
        *parents, leaf = name.split("__")
        section = row
        for parent in parents:
            section = section[parent]
        if value is None:
            del section[leaf]
        else:
            section[leaf] = value
    path.write_text(json.dumps(row))


def test_settings_missing_from_an_old_run_have_their_old_defaults(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    absent = {"train__ema": None, "eval__scoring": None, "format": None, "flax_ner": None}
    rewrite(begin(tmp_path), **absent)
    with (
        pytest.raises(UserError, match=r"train\.ema was 0\.0, is 0\.25"),
        lock_workdir(tmp_path, changed("train.ema"), DIGESTS),
    ):
        pass
    begin(tmp_path)
    rewrite(tmp_path, **absent)
    monkeypatch.setitem(rules.OLD_DEFAULTS, "eval.scoring", "lenient")
    with (
        pytest.raises(UserError, match=r"eval\.scoring was 'lenient', is 'strict'"),
        lock_workdir(tmp_path, default_config(), DIGESTS),
    ):
        pass
    lenient = default_config()
    lenient.eval.scoring = "lenient"
    with lock_workdir(tmp_path, lenient, DIGESTS):
        pass


def test_old_defaults_and_new_names_are_settings() -> None:
    names = flatten_dict(default_config().to_dict(), sep=".").keys()
    assert rules.OLD_DEFAULTS.keys() | {*rules.RENAMED_SETTINGS.values()} <= names
    assert not rules.RENAMED_SETTINGS.keys() & names


@pytest.mark.parametrize("old", rules.RENAMED_SETTINGS)
def test_a_run_resumes_with_a_setting_that_was_renamed(tmp_path: Path, old: str) -> None:
    new = rules.RENAMED_SETTINGS[old]
    config = changed(new)
    value = flatten_dict(config.to_dict(), sep=".")[new]
    begin(tmp_path, config)
    rewrite(tmp_path, **{old.replace(".", "__"): value, new.replace(".", "__"): None})
    with lock_workdir(tmp_path, config, DIGESTS):
        pass
    rewrite(tmp_path, **{old.replace(".", "__"): value, new.replace(".", "__"): None})
    with (
        pytest.raises(UserError, match=rf"{new} was {value}, is "),
        lock_workdir(tmp_path, default_config(), DIGESTS),
    ):
        pass


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": 4, "flax_ner": "9.0"}, r"written by flax_ner 9\.0 in format 4, and flax_ner 0"),
        ({"format": "x", "flax_ner": None}, "written by an earlier flax_ner in format x"),
        (
            {"train__new": 1, "flax_ner": "9.0"},
            r"9\.0, and .* not have its settings train\.new\. Resume",
        ),
        ({"new": {"a": 1, "b": 2}, "format": None, "flax_ner": None}, r"settings new\.a, new\.b\."),
    ],
)
def test_a_run_of_a_later_version_is_rejected(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    rewrite(begin(tmp_path), **changes)
    before = (tmp_path / "config.json").read_text()
    with (
        pytest.raises(UserError, match=message),
        lock_workdir(tmp_path, default_config(), DIGESTS),
    ):
        pass
    assert (tmp_path / "config.json").read_text() == before


@pytest.mark.slow
def test_weights_and_teacher_may_move_but_not_change(tmp_path: Path) -> None:
    """The run starts from a model, with a teacher and unlabelled texts."""
    model = OLD / "run" / "best"
    for name in ("first", "teacher", "changed"):
        shutil.copytree(model, tmp_path / name)
    (tmp_path / "texts").write_text("王建国在东海市工作。\n上海\n", "utf-8")
    paths = {
        "init_from": "first", "distill__teacher": "teacher", "distill__texts": "texts",
        "tokenizer__vocab": "first/vocab.txt",
    }  # fmt: skip
    data = {f"data__{split}": str(OLD / f"{split}.json") for split in ("train", "dev")}

    def run(**moved: str) -> None:
        inputs = {name: str(tmp_path / path) for name, path in (paths | moved).items()}
        fit(old_config(train__steps=2, **data, **inputs), tmp_path / "run")

    run()
    for path in {path.split("/")[0] for path in paths.values()}:
        (tmp_path / path).rename(tmp_path / f"{path} moved")
    moved = {name: path.replace("/", " moved/") for name, path in paths.items() if "/" in path}
    moved |= {name: f"{path} moved" for name, path in paths.items() if "/" not in path}
    run(**moved)

    (tmp_path / "other texts").write_text("王建国在东海市工作。\n北京\n", "utf-8")
    with pytest.raises(UserError, match=rf"data\.train, {TEACHER_INPUTS} \(distill\.texts was "):
        run(**moved | {"distill__texts": "other texts"})
    labels = tmp_path / "changed" / "config.json"
    row = json.loads(labels.read_text())
    row["model"]["compute_dtype"] = "bfloat16"
    labels.write_text(json.dumps(row))
    with pytest.raises(UserError, match=rf"inputs: {TEACHER_INPUTS} \(distill\.teacher was "):
        run(**moved | {"distill__teacher": "changed"})
    fresh = load_model(tmp_path / "run" / "last")
    assert jax.tree.leaves(fresh.params)
    with pytest.raises(UserError, match=r"inputs: init_from \(init_from was "):
        run(**moved | {"init_from": "run/last"})
