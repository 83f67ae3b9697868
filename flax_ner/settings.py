"""The settings of a training run by name: what each means, and which one a wrong name stands for."""

import inspect
import json
import re
import shlex
import textwrap
from collections.abc import Iterator
from difflib import get_close_matches
from typing import Any, NamedTuple

from flax_ner.config import FALLBACKS, default_config

# What other programs call a setting, with the value where the name implies one.
OTHER_NAMES = {
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
    "init_from": "model_name_or_path pretrained pretrained_model init_checkpoint load_from",
    "seed": "random_seed",
}
ALIASES = {alias: name for name, aliases in OTHER_NAMES.items() for alias in aliases.split()}
WORKDIR_NAMES = ("work_dir", "output_dir", "out_dir", "outdir", "save_dir", "logdir")
LIST_ALL = "python train.py --help lists all settings."


class Setting(NamedTuple):
    """A field of the configuration."""

    name: str  # with its section, "optimizer.learning_rate"
    default: Any
    meaning: str


def list_settings() -> tuple[list[Setting], dict[str, str]]:
    """Return every setting, and the comment of each section, as `flax_ner/config.py` has them."""
    comments = dict(_comments(inspect.getsource(default_config)))
    settings = [
        Setting(name, default, comments.get(name, ""))
        for name, default in _flat(json.loads(default_config().to_json()))
    ]
    return settings, {name: comments.get(name, "") for name in _sections(settings)}


def help_text(width: int = 100) -> str:
    """Return the help of `train.py`: usage, then every setting with default and meaning."""
    settings, sections = list_settings()
    lines = [
        "Train a tagger:",
        "",
        "  python train.py --config FILE[:VARIANT] --workdir DIR [--config.FIELD=VALUE ...]",
        "",
        "  --config   Configuration file: one of configs/, or your own. VARIANT is passed to its get_config.",
        "  --workdir  Directory of the run: checkpoints, metrics, models. The same command resumes the run.",
        "",
        "Settings and their defaults, which a configuration file may change. A setting that is not set comes",
        "from the weights of init_from, and otherwise has the value in brackets.",
    ]
    section = ""
    for setting in settings:
        here = _section(setting.name)
        if here != section:
            section = here
            lines += ["", *textwrap.wrap(f"{here}: {sections[here]}".rstrip(" :"), width)]
        shown = tuple(setting.default) if isinstance(setting.default, list) else setting.default
        value = f"={shlex.quote(str(shown))}"
        if shown is None:
            fallback = FALLBACKS.get(setting.name)
            value = " (not set)" if fallback is None else f" (not set: {fallback})"
        lines.append(f"  --config.{setting.name}{value}")
        lines += textwrap.wrap(
            setting.meaning, width, initial_indent=" " * 6, subsequent_indent=" " * 6
        )
    return "\n".join(lines)


def explain_unknown(name: str, in_file: bool = False) -> str:
    """Return what to write instead of a setting or option that does not exist.

    Args:
        name: as it was given, without `--` and `config.`.
        in_file: whether a configuration file has it, and not the command line.
    """
    wanted = name.lower().replace("-", "_")
    if wanted in WORKDIR_NAMES:
        return "Did you mean --workdir?"
    settings, _ = list_settings()
    names = [setting.name for setting in settings]
    own = [_leaf(n) for n in names if _section(n) == wanted]
    if own:
        return f"It is a section, with the settings {', '.join(own)}."
    meant = _meant(wanted, names)
    if not meant:
        return LIST_ALL
    return f"Did you mean {' or '.join(_written(name, in_file) for name in meant)}?"


def _meant(wanted: str, names: list[str]) -> list[str]:
    """Return the settings that a name may stand for; nothing rather than something far-fetched."""
    leaf = _leaf(wanted)
    if wanted in names:  # it was written with capitals or dashes
        return [wanted]
    if leaf in ALIASES:
        return [ALIASES[leaf]]
    if found := [name for name in names if _leaf(name) == leaf]:
        return found
    # Misspelt: close to a setting of the same section, or very close to any.
    same = {_leaf(name): name for name in names if _section(name) == _section(wanted)}
    if near := get_close_matches(leaf, same, 1, 0.8):
        return [same[near[0]]]
    near = get_close_matches(leaf, [*ALIASES, *map(_leaf, names)], 1, 0.9)
    return _meant(near[0], names) if near else []


def _written(setting: str, in_file: bool) -> str:
    """Return a setting, perhaps with a value, as a user writes it."""
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


def _flat(tree: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in tree.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def _comments(source: str) -> Iterator[tuple[str, str]]:
    """Find the comments above and behind each `config.NAME = ...`."""
    above: list[str] = []
    for line in map(str.strip, source.splitlines()):
        if line.startswith("# "):
            above.append(line.removeprefix("# "))
        elif match := re.fullmatch(r"config\.([\w.]+) = .*?(?:  # (.*))?", line):
            yield match[1], " ".join([*above, match[2] or ""]).strip()
            above = []
        else:
            above = []
