"""The job of pre-training by masked language modelling: plain text, scored by the hidden tokens of dev."""

import hashlib
import json
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import Mesh
from ml_collections import ConfigDict
from rich.console import Console

from flax_ner.config import (
    FALLBACKS,
    TRAINING_FIELDS,
    WITHOUT_LABELS,
    check_config,
    with_fallbacks,
)
from flax_ner.errors import UserError
from flax_ner.model.bert import BertConfig
from flax_ner.model.losses import cross_entropy
from flax_ner.model.masked_lm import abstract_masked_lm, apply_masked_lm, init_masked_lm
from flax_ner.model.tagger import Params
from flax_ner.next_steps import after_encoder
from flax_ner.text.batches import Epoch
from flax_ner.text.corpus import (
    check_text,
    count_characters,
    make_corpus,
    open_corpus,
    token_counts,
)
from flax_ner.text.portions import Portions
from flax_ner.text.vocab import vocab_of
from flax_ner.training.decisions import decide
from flax_ner.training.gradients import Gradients, Tricks, gradients_of
from flax_ner.training.hosts import everywhere, from_first
from flax_ner.training.job import Baseline, Content, Evaluate, Figures
from flax_ner.training.masking import Masking
from flax_ner.training.mesh import own_rows, put_epoch
from flax_ner.training.random_keys import dev_mask_key
from flax_ner.training.task import (
    digest,
    first_params,
    make_model,
    make_tokenizer,
    read_source,
)
from flax_ner.training.workdir import has_checkpoints, list_left_out
from flax_ner.weights.model_dir import ModelDir

DEV_SHARE = 0.15  # of dev's tokens, whatever a run's own share is, so that runs can be compared
PORTION = 16  # batches of dev that are on the device at a time


class MaskedLM:
    """A `Job`; its model is an encoder, to start a tagger from or to go on with.

    Raises:
        UserError: what is missing or does not fit, and which field says so.
    """

    best_by, unit = "accuracy", "tokens"
    seeds: tuple[int | None, ...] = (None,)
    # A healthy run also stays at the loss of token frequencies for long.
    baseline: Baseline | None = None
    gradients: Gradients
    dev_size: int
    units_per_step: float
    steps_per_epoch: int

    def __init__(self, config: ConfigDict):
        for split in ("train", "dev"):
            check_text(config.data[split], f"data.{split}")
        self._source, self.notes = read_source(config)
        decided, decided_notes = decide(config, self._source)
        self.config = with_fallbacks(decided, WITHOUT_LABELS)
        check_config(self.config)
        self.notes += decided_notes
        config, data = self.config, self.config.data
        skipped: list[str] | None = [] if data.on_error == "skip" else None

        def built() -> list[str]:
            return vocab_of(count_characters(data.train, skipped), config.tokenizer.min_count)

        self.tokenizer, self._source = make_tokenizer(config, self._source, built, self.notes)
        if "mask" not in self.tokenizer.special:
            raise UserError(
                f"tokenizer.vocab: {config.tokenizer.vocab or config.init_from} lacks [MASK], which "
                "masked_lm puts in place of tokens. A BERT vocab.txt has it, and a tokenizer.json a special "
                "token with mask in its name."
            )
        size = len(self.tokenizer.tokens)
        self._model = make_model(config, self._source, size, 1)
        if self._source is not None and "masked_lm" not in self._source.params:
            self.notes.append(
                "The layers that score tokens are freshly initialised: init_from has none that fit."
            )
        self.steps_per_portion = config.pretrain.portion

    def parts(self) -> dict[str, Content]:
        """See `Job`; the first process reads the texts, for all."""
        texts = {
            f"data.{split}": from_first(partial(_sha256, self.config.data[split])).encode()
            for split in ("train", "dev")
        }
        return {"init_from": digest(self._source), **texts}

    def prepare(self, workdir: Path, mesh: Mesh, console: Console) -> None:
        """Tokenise the texts into `workdir/text`, where that has not been done."""
        data, config, size = self.config.data, self.config, len(self.tokenizer.tokens)
        folders = {split: workdir / "text" / split for split in ("train", "dev")}

        begun = has_checkpoints(workdir)

        def tokenise() -> list[dict[str, Any]]:
            console.print(f"Reading {data.train} and {data.dev} ...", highlight=False)
            skip = data.on_error == "skip"
            return [
                make_corpus(folder, data[split], f"data.{split}", self.tokenizer, skip, begun)
                for split, folder in folders.items()
            ]

        made = from_first(tokenise)
        self.notes += [note for row in made for note in row["notes"]]
        skipped = [fault for row in made for fault in row["skipped"]]
        listing = workdir / "skipped.txt"
        everywhere(
            partial(list_left_out, skipped, "lines of data were skipped", listing, self.notes)
        )
        portions = partial(
            Portions, cls_id=self.tokenizer.cls_id, sep_id=self.tokenizer.sep_id,
            max_length=data.max_length,
        )  # fmt: skip
        train, self._dev = (open_corpus(folder) for folder in folders.values())
        self._train = portions(
            train, batch_size=data.batch_size, steps=self.steps_per_portion, seed=config.seed
        )
        self._dev_portions = partial(portions, self._dev, steps=PORTION, seed=None)
        scored = np.flatnonzero(token_counts(train, size) + token_counts(self._dev, size))
        self._masking = Masking(self.tokenizer, scored)
        share = config.pretrain.mask_prob
        self.gradients = gradients_of(
            partial(_loss, self._model, self._masking, share),
            lambda rows: self._masking.counts(rows.input_ids, rows.segment_ids, share).sum(),
            config.seed,
            Tricks(config.train.gradient_accumulation_steps),
        )
        self.steps_per_epoch = self._train.steps_per_epoch
        self.dev_size = int(self._dev.lengths.sum())
        self.units_per_step = self._train.tokens / self.steps_per_epoch
        self.notes.append(
            f"{size} tokens in the vocabulary ({self.tokenizer.kind}), {len(scored)} of them in the text; "
            f"{self.steps_per_epoch} steps an epoch."
        )

    def batches(self, portion: int, rows: np.ndarray) -> Epoch:
        """See `Job`."""
        return self._train.batches(portion, rows)

    def abstract(self) -> Params:
        """See `Job`."""
        return abstract_masked_lm(self._model)

    def initial(self, key: jax.Array, shardings: Params) -> Params:
        """Fresh parameters, or the encoder of `init_from`, and what it has to score tokens with."""
        fresh = partial(init_masked_lm, self._model)
        head = self._source.params.get("masked_lm") if self._source is not None else None
        return first_params(fresh, self._source, head, key, shardings)

    def release(self) -> None:
        """See `Job`."""
        self._source = None

    def evaluator(self, mesh: Mesh) -> Evaluate:
        """Loss and accuracy over the hidden tokens of dev, always the same ones."""
        batch_size = -(-self.config.eval.batch_size // mesh.size) * mesh.size
        dev, rows = self._dev_portions(batch_size=batch_size), own_rows(mesh, batch_size)
        look = jax.jit(partial(_look, self._model, self._masking, mesh.abstract_mesh))

        def evaluate(params: Params) -> list[Figures]:
            sums: Any = (np.float32(0), np.float32(0), np.float32(0))
            for first in range(0, dev.steps_per_epoch, PORTION):
                arrays = put_epoch(mesh, batch_size, dev.batches(first // PORTION, rows).shapes[0])
                count = min(PORTION, dev.steps_per_epoch - first)
                sums = look(params, arrays, first, count, sums)
            loss, right, counted = map(float, sums)
            return [{"loss": loss / max(counted, 1), "accuracy": right / max(counted, 1)}]

        return evaluate

    def saved(self, params: Params, index: int = 0) -> ModelDir:
        """See `Job`."""
        tokenizer, length = self.tokenizer, self.config.data.max_length
        kept = {"encoder": params["encoder"], "masked_lm": params["head"]}
        # Dropout that suits pre-training need not suit a tagger that starts from here.
        usual = {name: FALLBACKS[f"model.{name}"] for name in TRAINING_FIELDS}
        return ModelDir(
            replace(self._model, attention="xla", **usual),  # cudnn takes no dropout
            None,
            tokenizer.tokens,
            length,
            kept,
            tokenizer.lower_case,
            tokenizer.kind,
            tokenizer.definition,
        )

    def report(self, workdir: Path, console: Console) -> Figures:
        """Print the figures of `best`."""
        lines = (workdir / "metrics.jsonl").read_text("utf-8").splitlines()
        dev = [row for row in map(json.loads, lines) if row["split"] == "dev"]
        best = max(dev, key=lambda row: row["accuracy"])
        console.print(
            f"{workdir}/best, of step {best['step']}: loss {best['loss']:.4f}, accuracy "
            f"{best['accuracy']:.4f} on {self.config.data.dev}.",
            highlight=False,
            soft_wrap=True,  # a path that is broken in two cannot be copied
        )
        return {name: best[name] for name in ("loss", "accuracy")}

    def next_commands(self, workdir: Path) -> list[str]:
        """Return the commands that train a tagger from `best`."""
        return after_encoder(workdir / "best", f"{workdir}_tagger")


def _sha256(path: str) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _loss(
    model: BertConfig, masking: Masking, share: float, params: Params, batch: Any, keys: Array
) -> Array:
    """Return the mean of -log p(token) over the masked tokens, float32 scalar; `keys` is a key array [B, 2]."""
    masked = masking.mask(keys[:, 0], batch.input_ids, batch.segment_ids, share)
    logits = apply_masked_lm(model, params, *masking.inputs(masked, batch), keys[:, 1])
    return cross_entropy(logits, masked.labels, masked.counted)


def _look(
    model: BertConfig,
    masking: Masking,
    mesh: Any,
    params: Params,
    batches: Any,
    first: Array,
    count: Array,
    sums: tuple[Array, Array, Array],
) -> tuple[Array, Array, Array]:
    """Add loss, right answers and number of masked tokens of `count` batches [S, B, T] to `sums`.

    The first is number `first` of all; masks follow from the numbers of rows.
    """

    def add(i: Array, sums: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        batch = jax.tree.map(lambda x: jax.lax.dynamic_index_in_dim(x, i, keepdims=False), batches)
        rows = (first + i) * len(batch.input_ids) + jnp.arange(len(batch.input_ids))
        keys = jax.vmap(dev_mask_key)(rows)
        masked = masking.mask(keys, batch.input_ids, batch.segment_ids, DEV_SHARE)
        with jax.sharding.use_abstract_mesh(mesh):
            logits = apply_masked_lm(model, params, *masking.inputs(masked, batch))
        counted = masked.counted.sum().astype(jnp.float32)
        loss = cross_entropy(logits, masked.labels, masked.counted) * counted
        right = ((logits.argmax(-1) == masked.labels) & masked.counted).sum()
        return sums[0] + loss, sums[1] + right.astype(jnp.float32), sums[2] + counted

    total: tuple[Array, Array, Array] = jax.lax.fori_loop(0, count, add, sums)
    return total
