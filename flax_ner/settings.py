"""Help for the settings of a training run, and suggestions for unknown names."""

import inspect
import json
import re
import shlex
import textwrap
from collections.abc import Iterator
from difflib import get_close_matches
from typing import Any, NamedTuple

from flax.traverse_util import flatten_dict

from flax_ner.config import FALLBACKS, default_config

# Names of settings in other libraries, with a value if the name implies one.
OTHER_NAMES = {
    "optimizer.head_lr_multiplier": "head_factor",
    "optimizer.learning_rate": "lr max_lr peak_lr base_lr",
    "optimizer.schedule": "scheduler lr_schedule lr_scheduler lr_scheduler_type",
    "optimizer.warmup": "warmup_ratio warmup_proportion warmup_fraction",
    "optimizer.weight_decay": "wd l2",
    "optimizer.clip_norm": "grad_clip gradient_clip gradient_clip_val max_grad_norm clip_grad_norm",
    "optimizer.b1": "beta1 adam_beta1",
    "optimizer.b2": "beta2 adam_beta2",
    "optimizer.eps": "epsilon adam_epsilon",
    "optimizer.name": "optim",
    "model.compute_dtype=bfloat16": "bf16 bfloat16 fp16 float16 half amp mixed_precision",
    "model.compute_dtype": "dtype precision",
    "model.hidden_dropout_prob": "dropout dropout_rate hidden_dropout",
    "model.attention_probs_dropout_prob": "attention_dropout attn_dropout",
    "model.hidden_act": "activation hidden_activation",
    "model.num_hidden_layers": "num_layers n_layers layers",
    "model.num_attention_heads": "num_heads n_heads",
    "model.remat=True": "gradient_checkpointing grad_checkpointing",
    "model.head=crf": "crf use_crf",
    "data.batch_size": "batch_size train_batch_size per_device_train_batch_size bs",
    "data.max_length": "max_len max_seq_len max_seq_length seq_len",
    "data.train": "train_file train_data train_path",
    "data.dev": "dev_file dev_data validation_file validation valid val eval_file",
    "data.categories": "labels label_list",
    "eval.batch_size": "eval_batch_size per_device_eval_batch_size",
    "train.epochs": "num_epochs max_epochs num_train_epochs n_epochs",
    "train.steps": "max_steps num_steps num_train_steps total_steps",
    "train.gradient_accumulation_steps": "grad_accum accum_steps accumulate_grad_batches",
    "train.ema": "ema_decay",
    "train.fgm": "adversarial adversarial_training",
    "train.r_drop": "rdrop",
    "loss.label_smoothing": "label_smoothing_factor",
    "tokenizer.vocab": "vocab_file vocab_path",
    "tokenizer.lower_case": "do_lower_case lowercase",
    "checkpoint.every": "save_steps",
    "checkpoint.keep": "save_total_limit max_to_keep",
    "pretrain.steps_per_chunk": "portion",
    "init_from": "model_name_or_path pretrained pretrained_model init_checkpoint load_from",
    "seed": "random_seed",
}
ALIASES = {alias: name for name, aliases in OTHER_NAMES.items() for alias in aliases.split()}
WORKDIR_NAMES = ("work_dir", "output_dir", "out_dir", "outdir", "save_dir", "logdir")
LIST_ALL = "python -m flax_ner train --help lists all settings."


class Setting(NamedTuple):
    """A field of the configuration."""

    name: str  # with its section, "optimizer.learning_rate"
    default: Any
    meaning: str


def list_settings() -> tuple[list[Setting], dict[str, str]]:
    """Return all settings, and the comment of each section of `flax_ner/config.py`."""
    comments = dict(_comments(inspect.getsource(default_config)))
    settings = [
        Setting(name, default, comments.get(name, ""))
        for name, default in flatten_dict(json.loads(default_config().to_json()), sep=".").items()
    ]
    return settings, {name: comments.get(name, "") for name in _sections(settings)}


def help_text(width: int = 100) -> str:
    """Return the help for training: usage, then every setting with its default and meaning."""
    settings, sections = list_settings()
    lines = [
        "Train a tagger:",
        "",
        "  python train.py --config FILE[:VARIANT] --workdir DIR [--config.FIELD=VALUE ...]",
        "  flax-ner train --config NAME --workdir DIR [--FIELD VALUE ...]",
        "",
        "  --config   Configuration file: one of configs/, or your own. VARIANT is passed to its get_config.",
        "             flax-ner also accepts the name of a file in configs/, such as cluener.",
        "  --workdir  Directory of the run: checkpoints, metrics, models. The same command resumes the run.",
        "",
        "Settings and their defaults. A configuration file may change them. Unset settings come from the",
        "weights of init_from, and otherwise have the value in brackets.",
    ]
    section = ""
    for setting in settings:
        if _section(setting.name) != section:
            section = _section(setting.name)
            lines += ["", *textwrap.wrap(f"{section}: {sections[section]}".rstrip(" :"), width)]
        default = tuple(setting.default) if isinstance(setting.default, list) else setting.default
        value = f"={shlex.quote(str(default))}"
        if default is None:
            fallback = FALLBACKS.get(setting.name)
            value = " (not set)" if fallback is None else f" (not set: {fallback})"
        lines.append(f"  --config.{setting.name}{value}")
        lines += textwrap.wrap(
            setting.meaning, width, initial_indent=" " * 6, subsequent_indent=" " * 6
        )
    return "\n".join(lines)


def explain_unknown(name: str, in_file: bool = False) -> str:
    """Suggest a replacement for the name of a setting or option that does not exist.

    Args:
        name: the unknown name, without `--` and `config.`.
        in_file: whether it comes from a configuration file; otherwise from the command line.
    """
    wanted = name.lower().replace("-", "_")
    if wanted in WORKDIR_NAMES:
        return "Did you mean --workdir?"
    settings, _ = list_settings()
    names = [setting.name for setting in settings]
    members = [_leaf(n) for n in names if _section(n) == wanted]
    if members:
        return f"It is a section, with the settings {', '.join(members)}."
    matches = _find_matches(wanted, names)
    if not matches:
        return LIST_ALL
    return f"Did you mean {' or '.join(_as_written(name, in_file) for name in matches)}?"


def _find_matches(wanted: str, names: list[str]) -> list[str]:
    """Return the settings that an unknown name probably means; an empty list if no match is convincing."""
    leaf = _leaf(wanted)
    if wanted in names:  # it differed only in case or dashes
        return [wanted]
    if leaf in ALIASES:
        return [ALIASES[leaf]]
    if same_leaf := [name for name in names if _leaf(name) == leaf]:
        return same_leaf
    # A typo: similar to a setting of the same section, or very similar to any setting.
    same_section = {_leaf(name): name for name in names if _section(name) == _section(wanted)}
    if similar := get_close_matches(leaf, same_section, 1, 0.8):
        return [same_section[similar[0]]]
    similar = get_close_matches(leaf, [*ALIASES, *map(_leaf, names)], 1, 0.9)
    return _find_matches(similar[0], names) if similar else []


def _as_written(setting: str, in_file: bool) -> str:
    """Return a setting in the syntax of the command line or of a configuration file."""
    name, equals, value = setting.partition("=")
    if not in_file:
        return f"--config.{setting}"
    return f"config.{name}{f' = {value if value == str(True) else repr(value)}' if equals else ''}"


def _leaf(name: str) -> str:
    return name.rpartition(".")[2]


def _section(name: str) -> str:
    return name.rpartition(".")[0]


def _sections(settings: list[Setting]) -> list[str]:
    return list(dict.fromkeys(_section(setting.name) for setting in settings))


def _comments(source: str) -> Iterator[tuple[str, str]]:
    """Yield the name and comment of each `config.NAME = ...`; comments are above or at the end of the line."""
    above: list[str] = []
    for line in map(str.strip, source.splitlines()):
        if line.startswith("# "):
            above.append(line.removeprefix("# "))
        elif match := re.fullmatch(r"config\.([\w.]+) = .*?(?:  # (.*))?", line):
            yield match[1], " ".join([*above, match[2] or ""]).strip()
            above = []
        else:
            above = []
