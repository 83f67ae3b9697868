"""The masked-language-modelling task: train on plain text, evaluate on the masked tokens of dev."""

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

from flax_ner.config import FALLBACKS, TRAINING_FIELDS, UNLABELLED_FALLBACKS, with_fallbacks
from flax_ner.config_checks import check_config
from flax_ner.data.corpus import (
    check_text_file,
    count_characters,
    make_corpus,
    open_corpus,
    token_counts,
)
from flax_ner.errors import UserError
from flax_ner.model.bert import BertConfig
from flax_ner.model.losses import cross_entropy
from flax_ner.model.mlm_head import abstract_masked_lm, apply_masked_lm, init_masked_lm
from flax_ner.model.tagging_model import Params
from flax_ner.next_steps import after_encoder
from flax_ner.pretraining.chunks import Chunks
from flax_ner.pretraining.masking import Masking
from flax_ner.text.batches import Epoch
from flax_ner.text.vocab import vocab_from_counts
from flax_ner.training.decisions import resolve_settings
from flax_ner.training.hosts import run_on_all_hosts, run_on_primary
from flax_ner.training.loss import Gradients, StepOptions, accumulate_gradients
from flax_ner.training.mesh import process_local_rows, put_epoch
from flax_ner.training.random_keys import dev_mask_key
from flax_ner.training.start import (
    make_bert_config,
    make_initial_params,
    make_tokenizer,
    params_digest,
    read_source,
)
from flax_ner.training.task import Baseline, Content, Evaluate, Metrics
from flax_ner.training.workdir import has_checkpoints, write_item_list
from flax_ner.weights.model_dir import ModelDir

DEV_MASK_PROB = 0.15  # the same for all values of pretrain.mask_prob, so that runs can be compared
DEV_STEPS_PER_CHUNK = 16  # batches of dev that are on the device at once


class MaskedLM:
    """Pre-train an encoder: a `TrainingTask` whose model can be the `init_from` of a tagger or of this task.

    Args:
        config: configuration of the run.

    Raises:
        UserError: something is missing, invalid or contradictory. The message names the setting.
    """

    best_by, unit = "accuracy", "tokens"
    seeds: tuple[int | None, ...] = (None,)
    # None, because successful runs also stay at the loss of token frequencies for a long time.
    baseline: Baseline | None = None
    gradients: Gradients
    dev_size: int
    units_per_step: float
    steps_per_epoch: int

    def __init__(self, config: ConfigDict):
        for split in ("train", "dev"):
            check_text_file(config.data[split], f"data.{split}")
        self._source, self.notes = read_source(config)
        resolved, resolved_notes = resolve_settings(config, self._source)
        self.config = with_fallbacks(resolved, UNLABELLED_FALLBACKS)
        check_config(self.config)
        self.notes += resolved_notes
        config, data = self.config, self.config.data
        skipped: list[str] | None = [] if data.on_error == "skip" else None

        def make_vocab() -> list[str]:
            return vocab_from_counts(
                count_characters(data.train, skipped), config.tokenizer.min_count
            )

        self.tokenizer, self._source = make_tokenizer(config, self._source, make_vocab, self.notes)
        if "mask" not in self.tokenizer.special:
            raise UserError(
                f"tokenizer.vocab: {config.tokenizer.vocab or config.init_from} lacks [MASK], which "
                "task masked_lm needs. A BERT vocab.txt has it; a tokenizer.json has a special token with mask "
                "in its name."
            )
        size = len(self.tokenizer.tokens)
        self._model = make_bert_config(config, self._source, size, 1)
        if self._source is not None and "masked_lm" not in self._source.params:
            self.notes.append(
                "The masked-LM head is freshly initialised: init_from has none that matches."
            )
        self.steps_per_chunk = config.pretrain.steps_per_chunk

    def fingerprints(self) -> dict[str, Content]:
        """Return the data that decide the result, by setting. The primary process reads the texts for all."""
        texts = {
            f"data.{split}": run_on_primary(partial(_sha256, self.config.data[split])).encode()
            for split in ("train", "dev")
        }
        return {"init_from": params_digest(self._source), **texts}

    def setup(self, workdir: Path, mesh: Mesh, console: Console) -> None:
        """Tokenize the texts into `workdir/text`, unless an earlier start of the run did."""
        data, config, size = self.config.data, self.config, len(self.tokenizer.tokens)
        folders = {split: workdir / "text" / split for split in ("train", "dev")}

        resumed = has_checkpoints(workdir)

        def tokenize() -> list[dict[str, Any]]:
            console.print(f"Reading {data.train} and {data.dev} ...", highlight=False)
            skip = data.on_error == "skip"
            return [
                make_corpus(folder, data[split], f"data.{split}", self.tokenizer, skip, resumed)
                for split, folder in folders.items()
            ]

        reports = run_on_primary(tokenize)
        self.notes += [note for report in reports for note in report["notes"]]
        skipped = [error for report in reports for error in report["skipped"]]
        path = workdir / "skipped.txt"
        run_on_all_hosts(
            partial(write_item_list, skipped, "lines of data were skipped", path, self.notes)
        )
        chunks = partial(
            Chunks, cls_id=self.tokenizer.cls_id, sep_id=self.tokenizer.sep_id,
            max_length=data.max_length,
        )  # fmt: skip
        train, self._dev = (open_corpus(folder) for folder in folders.values())
        self._train = chunks(
            train, batch_size=data.batch_size, steps=self.steps_per_chunk, seed=config.seed
        )
        self._dev_chunks = partial(chunks, self._dev, steps=DEV_STEPS_PER_CHUNK, seed=None)
        scored = np.flatnonzero(token_counts(train, size) + token_counts(self._dev, size))
        self._masking = Masking(self.tokenizer, scored)
        share = config.pretrain.mask_prob
        self.gradients = accumulate_gradients(
            partial(_loss, self._model, self._masking, share),
            lambda rows: self._masking.counts(rows.input_ids, rows.segment_ids, share).sum(),
            config.seed,
            StepOptions(config.train.gradient_accumulation_steps),
        )
        self.steps_per_epoch = self._train.steps_per_epoch
        self.dev_size = int(self._dev.lengths.sum())
        self.units_per_step = self._train.tokens / self.steps_per_epoch
        self.notes.append(
            f"{size} tokens in the vocabulary ({self.tokenizer.kind}), {len(scored)} of them in the text; "
            f"{self.steps_per_epoch} steps per epoch."
        )

    def batches(self, chunk: int, rows: np.ndarray) -> Epoch:
        """Return the batches of a chunk, of each only `rows`, int [n]."""
        return self._train.batches(chunk, rows)

    def abstract(self) -> Params:
        """Return the parameters' shapes and dtypes, without arrays."""
        return abstract_masked_lm(self._model)

    def initial(self, key: jax.Array, shardings: Params) -> Params:
        """Return the initial parameters. The head is that of `init_from` if it has one."""
        fresh = partial(init_masked_lm, self._model)
        head = self._source.params.get("masked_lm") if self._source is not None else None
        return make_initial_params(fresh, self._source, head, key, shardings)

    def release(self) -> None:
        """Free the weights of `init_from`, which the training state now holds."""
        self._source = None

    def evaluator(self, mesh: Mesh) -> Evaluate:
        """Return a function that computes loss and accuracy on dev, with the same masks each time."""
        batch_size = -(-self.config.eval.batch_size // mesh.size) * mesh.size
        dev, rows = self._dev_chunks(batch_size=batch_size), process_local_rows(mesh, batch_size)
        add_metrics = jax.jit(
            partial(_add_dev_metrics, self._model, self._masking, mesh.abstract_mesh)
        )

        def evaluate(params: Params) -> list[Metrics]:
            sums: Any = (np.float32(0), np.float32(0), np.float32(0))
            for first in range(0, dev.steps_per_epoch, DEV_STEPS_PER_CHUNK):
                arrays = put_epoch(
                    mesh, batch_size, dev.batches(first // DEV_STEPS_PER_CHUNK, rows).shapes[0]
                )
                count = min(DEV_STEPS_PER_CHUNK, dev.steps_per_epoch - first)
                sums = add_metrics(params, arrays, first, count, sums)
            loss, correct, masked = map(float, sums)
            return [{"loss": loss / max(masked, 1), "accuracy": correct / max(masked, 1)}]

        return evaluate

    def saved(self, params: Params, index: int = 0) -> ModelDir:
        """Return the model directory of the model number `index`."""
        tokenizer, length = self.tokenizer, self.config.data.max_length
        saved_params = {"encoder": params["encoder"], "masked_lm": params["head"]}
        # The usual dropout rates, for taggers that start from this encoder. Pre-training may use others.
        dropout = {name: FALLBACKS[f"model.{name}"] for name in TRAINING_FIELDS}
        return ModelDir(
            replace(self._model, attention="xla", **dropout),  # cudnn has no dropout
            None,
            tokenizer.tokens,
            length,
            saved_params,
            tokenizer.lower_case,
            tokenizer.kind,
            tokenizer.definition,
        )

    def report(self, workdir: Path, console: Console) -> Metrics:
        """Print the dev metrics of `best` and return them."""
        lines = (workdir / "metrics.jsonl").read_text("utf-8").splitlines()
        dev = [row for row in map(json.loads, lines) if row["split"] == "dev"]
        best = max(dev, key=lambda row: row["accuracy"])
        console.print(
            f"{workdir}/best (step {best['step']}): loss {best['loss']:.4f}, accuracy "
            f"{best['accuracy']:.4f} on {self.config.data.dev}.",
            highlight=False,
            soft_wrap=True,  # so that long paths can be copied
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
    """Return the mean cross-entropy of the masked tokens, float32 scalar; `keys` is a key array [B, 2]."""
    masked = masking.mask(keys[:, 0], batch.input_ids, batch.segment_ids, share)
    logits = apply_masked_lm(model, params, *masking.inputs(masked, batch), keys[:, 1])
    return cross_entropy(logits, masked.labels, masked.counted)


def _add_dev_metrics(
    model: BertConfig,
    masking: Masking,
    mesh: Any,
    params: Params,
    batches: Any,
    first: Array,
    count: Array,
    sums: tuple[Array, Array, Array],
) -> tuple[Array, Array, Array]:
    """Add loss, correct predictions and number of masked tokens of `count` batches [S, B, T] to `sums`.

    `first` is the number of the first batch. The masks depend on the row numbers only.
    """

    def add(i: Array, sums: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        batch = jax.tree.map(lambda x: jax.lax.dynamic_index_in_dim(x, i, keepdims=False), batches)
        rows = (first + i) * len(batch.input_ids) + jnp.arange(len(batch.input_ids))
        keys = jax.vmap(dev_mask_key)(rows)
        masked = masking.mask(keys, batch.input_ids, batch.segment_ids, DEV_MASK_PROB)
        with jax.sharding.use_abstract_mesh(mesh):
            logits = apply_masked_lm(model, params, *masking.inputs(masked, batch))
        counted = masked.counted.sum().astype(jnp.float32)
        loss = cross_entropy(logits, masked.labels, masked.counted) * counted
        correct = ((logits.argmax(-1) == masked.labels) & masked.counted).sum()
        return sums[0] + loss, sums[1] + correct.astype(jnp.float32), sums[2] + counted

    total: tuple[Array, Array, Array] = jax.lax.fori_loop(0, count, add, sums)
    return total
