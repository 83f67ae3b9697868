"""A trained model in use: texts in, entities out."""

import warnings
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import overload

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import NamedSharding

from flax_ner.errors import UserError
from flax_ner.inference.windows import windows
from flax_ner.model.bert import BertConfig
from flax_ner.model.tagger import Params, apply
from flax_ner.text.examples import Entity, Example
from flax_ner.text.labels import LabelSet
from flax_ner.text.metrics import Scores, score
from flax_ner.text.tokenizer import CharTokenizer
from flax_ner.weights.convert import open_model

ROW_LENGTHS = (32, 64, 96, 128, 192, 256, 384, 512)  # few, for each is compiled once
CHUNK = 4096  # texts that are in memory at once


def load(path: str | Path) -> "Tagger":
    """Load a tagger: a model directory, PyTorch weights, or either in a repository of the Hugging Face hub.

    Args:
        path: a work directory's `best` or `last`, a converted model, a file or folder as
            `convert/torch_to_flax.py` takes them, or `owner/name[@revision]` on the hub.

    Warns:
        UserWarning: for PyTorch weights, what had to be assumed about them.

    Raises:
        UserError: there is no such model, or it is an encoder without a head.
    """
    model, report = open_model(path, "path")
    for note in report.notes if report else ():
        warnings.warn(f"{path}: {note}", stacklevel=2)
    if model.labels is None:
        raise UserError(
            f"{path}: an encoder without a head cannot tag. Fine-tune it first: "
            f"python train.py --config configs/cluener.py --workdir DIR --config.init_from={path}"
        )
    tokenizer = CharTokenizer(model.vocab, model.lower_case)
    params = jax.device_put(model.params)
    return Tagger(model.config, params, tokenizer, model.labels, model.max_length)


class Tagger:
    """Finds entities in texts of any length.

    Args:
        config: the model's shape.
        params: its parameters; may be replaced between calls.
        tokenizer: text to ids.
        labels: tag ids to entities.
        max_length: tokens a row at most, [CLS] and [SEP] included; longer texts go through
            overlapping windows.
        batch_size: rows a batch at most.
        sharding: of a batch [B, T], for several devices.
    """

    def __init__(
        self,
        config: BertConfig,
        params: Params,
        tokenizer: CharTokenizer,
        labels: LabelSet,
        max_length: int,
        batch_size: int = 32,
        sharding: NamedSharding | None = None,
    ):
        self.config, self.params, self.tokenizer, self.labels = config, params, tokenizer, labels
        self.max_length = min(max_length, config.max_position_embeddings)
        self.batch_size, self.sharding = batch_size, sharding
        self._logits = jax.jit(partial(_logits, config))
        self._best = jax.jit(partial(_best, config))

    @overload
    def __call__(self, texts: str, convention: str = ...) -> list[Entity]: ...  # type: ignore[overload-overlap]
    @overload
    def __call__(self, texts: Iterable[str], convention: str = ...) -> list[list[Entity]]: ...
    def __call__(
        self, texts: str | Iterable[str], convention: str = "strict"
    ) -> list[Entity] | list[list[Entity]]:
        """The entities of each text (of one text: its list).

        Offsets count characters of the text given; `score` is the probability of all the
        entity's tags together, taken as independent. `convention` is one of `LabelSet.decode`.
        """
        if isinstance(texts, str):
            return self._tag([texts], convention)[0]
        found: list[list[Entity]] = []
        texts = list(texts)
        for first in range(0, len(texts), CHUNK):
            found += self._tag(texts[first : first + CHUNK], convention)
        return found

    def logits(self, input_ids: np.ndarray, attention_mask: np.ndarray) -> Array:
        """Tag scores of tokenised rows, float32 [B, T, C].

        Args:
            input_ids: int [B, T], T at most `max_position_embeddings`.
            attention_mask: 0/1 [B, T].
        """
        ids, mask = np.asarray(input_ids, np.int32), np.asarray(attention_mask, np.int32)
        if (
            ids.ndim != 2
            or ids.shape != mask.shape
            or ids.shape[1] > self.config.max_position_embeddings
        ):
            raise UserError(
                f"input_ids {ids.shape}, attention_mask {mask.shape}: both must be [B, T] with "
                f"T at most {self.config.max_position_embeddings}."
            )
        return self._logits(self.params, ids, mask)

    def score(self, examples: Sequence[Example], convention: str = "strict") -> Scores:
        """Tag the examples' texts and compare with their entities.

        Raises:
            UserError: with file and line, for an unlabelled example.
        """
        gold = []
        for example in examples:
            if example.entities is None:
                raise UserError(f"{example.source}: has no label. Scoring needs labelled data.")
            gold.append(example.entities)
        return score(gold, self([example.text for example in examples], convention), convention)

    def _tag(self, texts: Sequence[str], convention: str) -> list[list[Entity]]:
        for i, text in enumerate(texts):
            if not isinstance(text, str):
                raise UserError(f"texts[{i}]: {type(text).__name__}, but a text is a string.")
        parts = [
            (i, window, window.stop == len(text))
            for i, text in enumerate(texts)
            if text
            for window in windows(len(text), self.max_length - 2)
        ]
        found: list[list[Entity]] = [[] for _ in texts]
        if not parts:
            return found
        pieces = [texts[i][window.start : window.stop] for i, window, _ in parts]
        tags, log_p = self._run([encoding.ids for encoding in self.tokenizer.encode_batch(pieces)])

        # All kept characters end to end; behind the last window of a text its [SEP], for `mmocr`.
        kept = np.array([w.keep_stop - w.keep_start + last for _, w, last in parts])
        offset = np.arange(kept.sum()) - np.repeat(np.cumsum(kept) - kept, kept)
        part = np.repeat(np.arange(len(parts)), kept)
        column = np.array([1 + w.keep_start - w.start for _, w, _ in parts])[part] + offset
        character = np.array([w.keep_start for _, w, _ in parts])[part] + offset
        row = np.array([i for i, _, _ in parts])[part]
        tag, log_p = tags[part, column], log_p[part, column]
        if convention != "mmocr":
            inside = character < np.array([len(text) for text in texts])[row]
            tag, log_p, row, character = tag[inside], log_p[inside], row[inside], character[inside]

        spans = self.labels.spans(tag, row, character, convention)
        begins = np.searchsorted(row, spans.row) + spans.start
        ends = begins + spans.end - spans.start
        total = np.concatenate([[0.0], np.cumsum(log_p, dtype=np.float64)])
        scores = np.exp(total[ends] - total[begins])
        for i, kind, start, end, p in zip(*(x.tolist() for x in (*spans, scores)), strict=True):
            found[i].append(
                Entity(self.labels.categories[kind], start, end, texts[i][start:end], p)
            )
        return found

    def _run(self, ids: list[list[int]]) -> tuple[np.ndarray, np.ndarray]:
        """Best tag and its log probability for each token: int32 and float32 [rows, longest]."""
        lengths = np.array([len(row) for row in ids])
        tags = np.zeros((len(ids), lengths.max()), np.int32)
        log_p = np.zeros(tags.shape, np.float32)
        devices = 1 if self.sharding is None else self.sharding.num_devices
        order = np.argsort(lengths, kind="stable")
        choices = np.array([*(w for w in ROW_LENGTHS if w < self.max_length), self.max_length])
        widths = choices[np.searchsorted(choices, lengths)]
        pending = []
        for width in np.unique(widths):
            rows = order[widths[order] == width]
            for first in range(0, len(rows), self.batch_size):
                batch = rows[first : first + self.batch_size]
                # A power of two of rows: few shapes to compile.
                height = min(1 << (len(batch) - 1).bit_length(), self.batch_size)
                height = -(-height // devices) * devices
                input_ids = np.zeros((height, width), np.int32)
                mask = np.arange(width) < np.pad(lengths[batch], (0, height - len(batch)))[:, None]
                for place, i in enumerate(batch):
                    input_ids[place, : lengths[i]] = ids[i]
                inputs = jax.device_put((input_ids, mask.astype(np.int32)), self.sharding)
                pending.append((batch, self._best(self.params, *inputs)))
        for batch, (best, best_log_p) in pending:
            width = min(best.shape[1], tags.shape[1])
            tags[batch, :width] = np.asarray(best)[: len(batch), :width]
            log_p[batch, :width] = np.asarray(best_log_p)[: len(batch), :width]
        return tags, log_p


def _logits(config: BertConfig, params: Params, input_ids: Array, mask: Array) -> Array:
    positions = jnp.broadcast_to(jnp.arange(input_ids.shape[1], dtype=jnp.int32), input_ids.shape)
    return apply(config, params, input_ids, mask, positions)


def _best(config: BertConfig, params: Params, input_ids: Array, mask: Array) -> tuple[Array, Array]:
    log_p = jax.nn.log_softmax(_logits(config, params, input_ids, mask))
    return log_p.argmax(-1), log_p.max(-1)
