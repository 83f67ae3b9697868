"""A trained model in use: texts in, entities out."""

import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from itertools import islice, repeat
from pathlib import Path
from typing import NamedTuple, overload

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from flax_ner.errors import UserError
from flax_ner.inference.rows import WIDTHS, Shapes, batches
from flax_ner.inference.windows import split
from flax_ner.model.bert import BertConfig
from flax_ner.model.tagger import Params, apply, cast_kernels
from flax_ner.text.examples import Entity, Example
from flax_ner.text.labels import LabelSet
from flax_ner.text.metrics import Scores, score
from flax_ner.text.tokenizer import CharTokenizer
from flax_ner.weights.convert import open_model

CHUNK = 1024  # texts that are tokenised together
# A batch on a CPU stays in its caches: 4,096 tokens take a third longer a token than 1,024.
CPU_TOKENS = 1024


def load(path: str | Path, compute_dtype: str | None = None) -> "Tagger":
    """Load a tagger: a model directory, PyTorch weights, or either in a repository of the Hugging Face hub.

    Args:
        path: a work directory's `best` or `last`, a converted model, a file or folder as
            `convert/torch_to_flax.py` takes them, or `owner/name[@revision]` on the hub.
        compute_dtype: `bfloat16` for speed or `float32`; by default what the model was trained in.

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
    config = replace(model.config, compute_dtype=compute_dtype or model.config.compute_dtype)
    params = cast_kernels(config, jax.device_put(model.params))
    return Tagger(config, params, tokenizer, model.labels, model.max_length)


class Tagger:
    """Finds entities in texts of any length.

    Args:
        config: the model's shape.
        params: its parameters; may be replaced between calls.
        tokenizer: text to ids.
        labels: tag ids to entities.
        max_length: tokens a row at most, [CLS] and [SEP] included; longer texts go through
            overlapping windows.
        batch_size: rows of 128 tokens a batch at most, fewer where rows are wider, and on a CPU.
        sharding: of a batch [B, T], for several devices; where they are those of several processes,
            all of them must ask for the same.
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
        # Every process takes all answers.
        whole = None if sharding is None else NamedSharding(sharding.mesh, P())
        self._best = jax.jit(partial(_best, config), out_shardings=whole)
        devices = 1 if sharding is None else sharding.num_devices
        tokens = batch_size * WIDTHS[0]
        if jax.default_backend() == "cpu":
            tokens = min(tokens, CPU_TOKENS * devices)
        self._shapes = Shapes(self.max_length, tokens, devices)

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
            self.labels.check(convention)
            return self._finish(self._start([texts], convention))[0]
        return list(self.stream(texts, convention))

    def stream(self, texts: Iterable[str], convention: str = "strict") -> Iterator[list[Entity]]:
        """The entities of one text after another, in order, as a call gives them.

        However many texts there are, no more than 2,048 are held at a time: so many are read ahead.

        Raises:
            UserError: an unknown convention; or, once it is reached, a text that is no string.
        """
        self.labels.check(convention)
        return self._stream(iter(texts), convention)

    def _stream(self, texts: Iterator[str], convention: str) -> Iterator[list[Entity]]:
        waiting: _Work | None = None
        count = 0
        while chunk := list(islice(texts, CHUNK)):
            if not all(map(isinstance, chunk, repeat(str))):
                i = next(i for i, text in enumerate(chunk) if not isinstance(text, str))
                kind = type(chunk[i]).__name__
                raise UserError(f"texts[{count + i}]: {kind}, but a text is a string.")
            count += len(chunk)
            # The device has this chunk before the answers of the one before are looked at.
            started = self._start(chunk, convention)
            if waiting is not None:
                yield from self._finish(waiting)
            waiting = started
        if waiting is not None:
            yield from self._finish(waiting)

    def compile(self) -> None:
        """Compile ahead what the first use of each shape of batch would compile otherwise.

        After it no text compiles anything, whatever its length. Each shape is run once.
        """
        jax.block_until_ready([self._run(*np.zeros((3, *s), np.int32)) for s in self._shapes.all()])

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

    def _start(self, texts: Sequence[str], convention: str) -> "_Work":
        """Tokenise and hand to the device, without waiting for it."""
        sizes = np.fromiter(map(len, texts), np.int64, len(texts))
        pieces = split(sizes, self.max_length - 2)
        places = zip(*(column.tolist() for column in pieces[:3]), strict=True)
        tokens, lengths = self.tokenizer.encode_ids([texts[i][a:b] for i, a, b in places])
        within = np.arange(len(tokens)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        character = np.repeat(pieces.start - 1, lengths) + within  # of [CLS]: the one before

        running = []
        for batch in batches(tokens, lengths, self._shapes):
            outputs = self._run(batch.input_ids, batch.segment_ids, batch.positions)
            running.append((batch.source, batch.target, outputs))
        # Tags are read from the kept characters; `mmocr` reads a text's last [SEP] too.
        keep_stop = pieces.keep_stop
        if convention == "mmocr":
            keep_stop = keep_stop + (pieces.stop == sizes[pieces.text])
        kept = character >= np.repeat(pieces.keep_start, lengths)
        kept &= character < np.repeat(keep_stop, lengths)
        return _Work(texts, convention, np.repeat(pieces.text, lengths), character, kept, running)

    def _run(self, *batch: np.ndarray) -> tuple[Array, Array]:
        """Best tag and its log probability, [B, T], not waited for."""
        if self.sharding is None:
            arrays = jax.device_put(batch)
        else:
            arrays = [
                jax.make_array_from_callback(x.shape, self.sharding, x.__getitem__) for x in batch
            ]
        outputs = self._best(self.params, *arrays)
        for output in outputs:
            output.copy_to_host_async()
        return outputs

    def _finish(self, work: "_Work") -> list[list[Entity]]:
        """Wait for the device and read its tags."""
        tag = np.zeros(len(work.kept), np.int32)
        log_p = np.zeros(len(work.kept), np.float32)
        for source, target, outputs in work.running:
            tag[source], log_p[source] = (np.asarray(x).ravel()[target] for x in outputs)
        row, tag, log_p = work.text[work.kept], tag[work.kept], log_p[work.kept]
        spans = self.labels.spans(tag, row, work.character[work.kept], work.convention)

        begins = np.searchsorted(row, spans.row) + spans.start
        ends = begins + spans.end - spans.start
        total = np.concatenate([[0.0], np.cumsum(log_p, dtype=np.float64)])
        scores = np.exp(total[ends] - total[begins])
        found: list[list[Entity]] = [[] for _ in work.texts]
        columns = (*spans, scores)
        for i, kind, start, end, p in zip(*(x.tolist() for x in columns), strict=True):
            surface = work.texts[i][start:end]
            found[i].append(Entity(self.labels.categories[kind], start, end, surface, p))
        return found


class _Work(NamedTuple):
    """Texts that the device is at. Arrays are over all tokens of all pieces, in the order of the texts."""

    texts: Sequence[str]
    convention: str
    text: np.ndarray  # whose token it is
    character: np.ndarray  # which of its characters it is
    kept: np.ndarray  # whether its tag counts
    # Source and target of each batch (see `Batch`), and what the device makes of it.
    running: list[tuple[np.ndarray, np.ndarray, tuple[Array, Array]]]


def _logits(config: BertConfig, params: Params, input_ids: Array, mask: Array) -> Array:
    positions = jnp.broadcast_to(jnp.arange(input_ids.shape[1], dtype=jnp.int32), input_ids.shape)
    return apply(config, params, input_ids, mask, positions)


def _best(
    config: BertConfig, params: Params, input_ids: Array, segment_ids: Array, positions: Array
) -> tuple[Array, Array]:
    log_p = jax.nn.log_softmax(apply(config, params, input_ids, segment_ids, positions))
    return log_p.argmax(-1), log_p.max(-1)
