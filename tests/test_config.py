"""Every configuration file is valid, and every invalid value is reported."""

import math
import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

from flax_ner.config import default_config, with_fallbacks
from flax_ner.config_checks import check_config, config_warnings
from flax_ner.errors import UserError
from flax_ner.model.bert import BertConfig

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("*.py")), ids=lambda p: p.stem)
def test_every_file_in_configs_is_valid(path: Path) -> None:
    config = import_module(f"configs.{path.stem}").get_config()
    check_config(config)
    assert set(config.keys()) == set(default_config().keys())


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("data.batching", "packed"),
        ("data.format", "xml"),
        ("data.scheme", "bilou"),
        ("optimizer.name", "sgd"),
        ("optimizer.schedule", "linaer"),
        ("loss.name", "dice"),
        ("eval.scoring", "exact"),
        ("tokenizer.kind", "bpe"),
        ("data.batch_size", 0),
        ("train.epochs", 0),
        ("optimizer.warmup", 1.5),
        ("optimizer.learning_rate", -1.0),
        ("data.max_length", 513),
        ("checkpoint.keep", 0),
        ("seed", -1),
        ("optimizer.b2", 1.0),
        ("distill.weight", 1.5),
        ("distill.weight", -0.5),
        ("distill.temperature", 0.0),
        ("distill.texts", "texts.txt"),
        ("task", "tagger"),
        ("pretrain.steps_per_chunk", 0),
        ("pretrain.mask_prob", 0.0),
        ("train.max_seconds", -1),
        ("optimizer.learning_rate", 0.0),
        ("optimizer.learning_rate", math.nan),
        ("optimizer.weight_decay", math.inf),
        ("loss.gamma", math.nan),
        ("optimizer.eps", 0.0),
        ("optimizer.head_lr_multiplier", 0.0),
        ("optimizer.layer_decay", 1.1),
        ("optimizer.decay_factor", 10.0),
        ("optimizer.milestones", (14, 8)),
        ("optimizer.milestones", (8, 8)),
        ("optimizer.milestones", (0, 8)),
        ("model.head", "foo"),
        ("model.attention", "foo"),
        ("model.compute_dtype", "foo"),
        ("model.hidden_act", "foo"),
        ("model.hidden_dropout_prob", 2.0),
        ("model.word_dropout_prob", -0.1),
        ("model.hidden_size", 7),
        ("model.num_hidden_layers", 0),
    ],
)
def test_an_invalid_value_is_reported_with_its_field(field: str, value: object) -> None:
    config = default_config()
    config.update_from_flattened_dict({field: value})
    with pytest.raises(UserError, match=f"{re.escape(field)}: .*{re.escape(str(value))}"):
        check_config(config)


@pytest.mark.parametrize(
    ("field", "value"), [("model.head", "foo"), ("model.hidden_dropout_prob", 2.0)]
)
def test_an_invalid_value_is_reported_before_the_weights_are_read(
    field: str, value: object
) -> None:
    config = default_config()
    config.init_from = "weights"
    config.update_from_flattened_dict({field: value})
    with pytest.raises(UserError, match=f"^{re.escape(field)}: "):
        check_config(config)


def test_shapes_are_checked_only_if_the_weights_do_not_determine_them() -> None:
    config = default_config()
    config.init_from, config.model.num_attention_heads = "weights", 10
    check_config(config)  # hidden_size is that of the weights
    config.init_from = ""
    with pytest.raises(UserError, match=r"768 is not a multiple of model\.num_attention_heads 10"):
        check_config(config)


def test_a_setting_that_may_be_empty_lists_only_names() -> None:
    config = default_config()
    config.tokenizer.kind = "foo"
    with pytest.raises(UserError, match="one of char, wordpiece, subword, or leave it empty"):
        check_config(config)


@pytest.mark.parametrize(
    ("name", "rate", "warns"),
    [
        ("adamw", 5.0, True),
        ("adamw", 1e-3, False),
        ("adadelta", 0.5, False),
        ("adadelta", 50.0, True),
    ],
)
def test_a_far_too_high_learning_rate_gives_a_warning(name: str, rate: float, warns: bool) -> None:
    config = default_config()
    config.optimizer.name, config.optimizer.learning_rate = name, rate
    check_config(config)
    assert any("learning_rate" in warning for warning in config_warnings(config)) is warns


def test_the_milestones_suggested_by_the_error_are_valid() -> None:
    config = default_config()
    config.optimizer.milestones = (14, 8, 8)
    with pytest.raises(UserError, match=r"ascending order, e.g. \(8, 14\)\.$") as error:
        check_config(config)
    config.optimizer.milestones = eval(str(error.value).rpartition("e.g. ")[2].rstrip("."))
    check_config(config)


def test_an_unknown_field_raises_an_error_in_a_file_too() -> None:
    with pytest.raises(AttributeError, match='Did you mean "learning_rate"'):
        default_config().optimizer.learning_rat = 1.0


def test_bert_config_has_the_defaults_of_the_configuration() -> None:
    fields = BertConfig(vocab_size=1, num_labels=1).to_json()
    defaults = default_config().model
    for name, value in with_fallbacks(default_config()).model.items():
        assert fields[name] == value, name
        assert defaults[name] in (None, value), name


@pytest.mark.parametrize("scheme", ["bioes", "io"])
def test_mmocr_scoring_rejects_unsupported_schemes(scheme: str) -> None:
    config = default_config()
    config.data.scheme, config.eval.scoring = scheme, "mmocr"
    with pytest.raises(UserError, match=f"does not support the tags of data.scheme {scheme}"):
        check_config(config)


@pytest.mark.slow
@pytest.mark.every_python
@pytest.mark.parametrize(
    ("argument", "expected"),
    [
        ("--config.data.train=data/cluener/train.json", "data download cluener"),
        ("--config.data.batching=packed", "pack, bucket, pad"),
        ("--config.data.train=nowhere.json", "data.train: no file 'nowhere.json'"),
        ("--config.init_from=nowhere.pth", "init_from: no file or directory 'nowhere.pth'"),
    ],
)
def test_the_command_line_exits_with_one_clear_message(
    argument: str, expected: str, tmp_path: Path
) -> None:
    command = [sys.executable, "train.py", "--config=configs/demo.py", f"--workdir={tmp_path}/run"]
    if "data.train" in argument:
        command.append("--config.data.format=cluener")
    result = subprocess.run(
        [*command, argument], cwd=ROOT, capture_output=True, text=True, check=False, timeout=120
    )
    assert result.returncode not in (0, None)
    assert expected in result.stderr
    assert "Traceback" not in result.stderr
    assert not (tmp_path / "run").exists()
