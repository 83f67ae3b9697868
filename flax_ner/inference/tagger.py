"""A trained model in use: texts in, entities out."""

import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import partial
from itertools import islice, repeat, tee
from pathlib import Path
from typing import Any, NamedTuple, overload

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from flax_ner.errors import UserError
from flax_ner.inference.rows import WIDTHS, Shapes, batches
from flax_ner.inference.spans import spans_of
from flax_ner.inference.windows import split
from flax_ner.memory import shortage_told
from flax_ner.model import global_pointer
from flax_ner.model.bert import BertConfig
from flax_ner.model.crf import Chain, chain
from flax_ner.model.decoding import Decoded, Decoder
from flax_ner.model.global_pointer import Found
from flax_ner.model.tagger import Logits, Params, apply, cast_kernels
from flax_ner.text.examples import Entity, Example
from flax_ner.text.labels import LabelSet, SpanLabels
from flax_ner.text.metrics import Scores, score
from flax_ner.text.tokenizer import TOKENIZERS, Tokenizer
from flax_ner.weights.convert import open_model

# Of params, and four arrays of `rows.Batch` [B, T]: `Decoded`, `Found` or probabilities.
Forward = Callable[..., Any]
CHUNK = 1024  # texts that are tokenised together
# A batch on a CPU stays in its caches: 4,096 tokens take a third longer a token than 1,024.
CPU_TOKENS = 1024


def load(path: str | Path, compute_dtype: str | None = None, batch_size: int = 32) -> "Tagger":
    """Load a tagger: a model directory, PyTorch weights, or either in a repository of the Hugging Face hub.

    Args:
        path: a work directory's `best` or `last`, a converted model, a file or folder as
            `convert/torch_to_flax.py` takes them, or `owner/name[@revision]` on the hub.
        compute_dtype: `bfloat16` for speed or `float32`; by default what the model was trained in.
        batch_size: as of `Tagger`.

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
    tokenizer = TOKENIZERS[model.tokenizer](model.vocab, model.lower_case)
    config = replace(model.config, compute_dtype=compute_dtype or model.config.compute_dtype)
    params = cast_kernels(config, jax.device_put(model.params))
    return Tagger(config, params, tokenizer, model.labels, model.max_length, batch_size)


class Tagger:
    """Finds entities in texts of any length.

    Args:
        config: the model's shape.
        params: its parameters; may be replaced between calls.
        tokenizer: text to ids.
        labels: tag ids to entities.
        max_length: tokens a row at most, [CLS] and [SEP] included; longer texts are read in parts
            (`windows.split`).
        batch_size: rows of 128 tokens a batch at most, fewer where rows are wider, and on a CPU.
        sharding: of a batch [B, T], for several devices; where they are those of several processes,
            all of them must ask for the same.
    """

    def __init__(
        self,
        config: BertConfig,
        params: Params,
        tokenizer: Tokenizer,
        labels: LabelSet,
        max_length: int,
        batch_size: int = 32,
        sharding: NamedSharding | None = None,
    ):
        self.config, self.params, self.tokenizer, self.labels = config, params, tokenizer, labels
        self.max_length = min(max_length, config.max_position_embeddings)
        self.batch_size, self.sharding = batch_size, sharding
        self._logits = jax.jit(partial(_logits, config))
        decoder = make_decoder(config, labels)
        # Every process takes all answers.
        whole = None if sharding is None else NamedSharding(sharding.mesh, P())
        self._best, self._probabilities = (
            jax.jit(partial(forward, config, decoder, sharding), out_shardings=whole)
            for forward in (_best, _probabilities)
        )
        devices = 1 if sharding is None else sharding.num_devices
        tokens = batch_size * WIDTHS[0]
        if jax.default_backend() == "cpu":
            tokens = min(tokens, CPU_TOKENS * devices)
        self._shapes = Shapes(self.max_length, tokens, devices)

    @overload
    def __call__(  # type: ignore[overload-overlap]
        self, texts: str, convention: str = ..., threshold: float = ...
    ) -> list[Entity]: ...
    @overload
    def __call__(
        self, texts: Iterable[str], convention: str = ..., threshold: float = ...
    ) -> list[list[Entity]]: ...
    def __call__(
        self, texts: str | Iterable[str], convention: str = "strict", threshold: float = 0.0
    ) -> list[Entity] | list[list[Entity]]:
        """The entities of each text (of one text: its list).

        Args:
            texts: one text or many.
            convention: how tags become entities, one of `LabelSet.decode`.
            threshold: entities with a lower `score` are left out.

        Offsets count characters of the text given; `score` is the probability of all the
        entity's tags together: of a softmax, taken as independent; of a CRF, as its chain has it. Of a
        GlobalPointer it is the sigmoid of the span's score, and entities may lie in one another.
        """
        if isinstance(texts, str):
            return next(self.stream([texts], convention, threshold))
        return list(self.stream(texts, convention, threshold))

    def stream(
        self, texts: Iterable[str], convention: str = "strict", threshold: float = 0.0
    ) -> Iterator[list[Entity]]:
        """The entities of one text after another, in order, as a call gives them.

        However many texts there are, no more than 2,048 are held at a time: so many are read ahead.

        Raises:
            UserError: an unknown convention; or, once it is reached, a text that is no string.
        """
        self.labels.check(convention)
        if not 0 <= threshold <= 1:
            raise UserError(f"threshold: {threshold}, but a probability lies in [0, 1].")
        return self._stream(texts, convention, threshold)

    def _stream(
        self, texts: Iterable[str], convention: str, threshold: float
    ) -> Iterator[list[Entity]]:
        for work in self._ahead(texts, self._best):
            found = self._finish(work, convention)
            del work  # its texts and arrays, while the next are read
            for entities in found:
                yield [e for e in entities if e.score >= threshold] if threshold else entities

    def by_convention(
        self, texts: Iterable[str], conventions: Sequence[str]
    ) -> dict[str, list[list[Entity]]]:
        """What a call gives under each convention; the model runs once.

        Raises:
            UserError: a convention that is unknown or cannot read the tags, or a text that is no string.
        """
        conventions = list(dict.fromkeys(conventions))
        for convention in conventions:
            self.labels.check(convention)
        found: dict[str, list[list[Entity]]] = {convention: [] for convention in conventions}
        for work in self._ahead(texts, self._best):
            for convention in conventions:
                found[convention] += self._finish(work, convention)
        return found

    def explain(self, text: str) -> np.ndarray:
        """The probability of every tag at every character, float32 [len(text), C].

        Tags are in the order of `labels.names`. The characters of a word have those of the word; what
        is no part of a word, such as a space, is outside.

        Raises:
            UserError: the head gives spans, and no tags.
        """
        return next(self.explain_each([text]))

    def explain_each(self, texts: Iterable[str]) -> Iterator[np.ndarray]:
        """As `explain`, for one text after another; no more are held at a time than by `stream`."""
        texts, again = tee(texts)
        outside = np.eye(len(self.labels), dtype=np.float32)[self.labels.outside]
        for text, words in zip(again, self.explain_words(texts), strict=True):
            table = np.tile(outside, (len(text), 1))
            lengths = words.end - words.start
            within = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
            table[np.repeat(words.start, lengths) + within] = np.repeat(
                words.table, lengths, axis=0
            )
            yield table

    def explain_words(self, texts: Iterable[str]) -> Iterator["Words"]:
        """As `explain_each`, a word each, which is what the model gives tags to."""
        if isinstance(self.labels, SpanLabels):
            raise UserError(
                "a model with the head global_pointer has no probabilities of tags. Take one with another head."
            )
        for work in self._ahead(texts, self._probabilities):
            yield from self._words(work)

    def _ahead(self, texts: Iterable[str], forward: Forward) -> Iterator["_Work"]:
        """Chunks of the texts; the device has the next one before the answers of one are looked at."""
        if isinstance(texts, str):
            raise UserError("texts: one string. Give a list, or call the tagger with it.")
        texts, waiting, count = iter(texts), None, 0
        while chunk := list(islice(texts, CHUNK)):
            if not all(map(isinstance, chunk, repeat(str))):
                i = next(i for i, text in enumerate(chunk) if not isinstance(text, str))
                kind = type(chunk[i]).__name__
                raise UserError(f"texts[{count + i}]: {kind}, but a text is a string.")
            count += len(chunk)
            started = self._start(chunk, forward)
            if waiting is not None:
                yield waiting
            waiting = started
        if waiting is not None:
            yield waiting

    def compile(self) -> None:
        """Compile ahead what the first use of each shape of batch would compile otherwise.

        After it no call compiles anything, whatever the length of a text. Each shape is run once.
        """
        jax.block_until_ready(
            [self._run(self._best, *np.zeros((4, *s), np.int32)) for s in self._shapes.all()]
        )

    def logits(self, input_ids: np.ndarray, attention_mask: np.ndarray) -> Array:
        """Tag scores of tokenised rows, float32 [B, T, C]; a CRF's transitions are not in them.

        Of a GlobalPointer the scores of spans, [B, C, T, T], by their first and last token.

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

    def _start(self, texts: Sequence[str], forward: Forward) -> "_Work":
        """Tokenise and hand to the device, without waiting for it."""
        tokens = self.tokenizer.tokenize(texts)
        pieces = split(texts, tokens, self.max_length - 2)
        ids, token, lengths = self.tokenizer.frame(tokens, pieces.text, pieces.start, pieces.stop)
        text = np.repeat(pieces.text, lengths)

        start, end, first = (
            np.append(column, column.dtype.type(0)).take(token, mode="clip")
            for column in (tokens.start, tokens.end, tokens.first)
        )
        running = []
        for batch in batches(ids, first, lengths, self._shapes):
            outputs = self._run(forward, *batch[:4])
            running.append((batch.source, batch.target, outputs))
        # A word's tag is read from its first token, in one window.
        place = token - (np.cumsum(tokens.lengths) - tokens.lengths)[text]  # in its text
        inside = place >= np.repeat(pieces.keep_start, lengths)
        inside &= place < np.repeat(pieces.keep_stop, lengths)
        # A line break between pieces has the place of the [SEP] in front of it, and is outside.
        breaks = (place == np.repeat(pieces.stop, lengths)) & np.repeat(pieces.line_break, lengths)
        # `mmocr` reads a text's last [SEP] too, as if it were a character.
        last = place == tokens.lengths[text]
        sizes = np.fromiter(map(len, texts), np.int32, len(texts))
        start[last], end[last] = sizes[text[last]], sizes[text[last]] + 1
        kept = (inside & first) | breaks
        return _Work(texts, text, start, end, inside, kept, breaks, last, running)

    def _run(self, forward: Forward, *batch: np.ndarray) -> Any:
        """Outputs of a forward pass, not waited for."""
        if self.sharding is None:
            arrays = jax.device_put(batch)
        else:
            arrays = [
                jax.make_array_from_callback(x.shape, self.sharding, x.__getitem__) for x in batch
            ]
        with self._shortage_told():
            outputs = forward(self.params, *arrays)
        for output in jax.tree.leaves(outputs):
            output.copy_to_host_async()
        return outputs

    def _shortage_told(self) -> AbstractContextManager[None]:
        return shortage_told(
            f"A smaller batch size helps (now {self.batch_size}): eval.batch_size of a run, --batch-size of a "
            "command, batch_size of `load`."
        )

    def _finish(self, work: "_Work", convention: str) -> list[list[Entity]]:
        """Wait for the device and read what it found."""
        read = self._read_spans if isinstance(self.labels, SpanLabels) else self._read_tags
        row, kind, start, end, scores = read(work, convention)
        found: list[list[Entity]] = [[] for _ in work.texts]
        columns = (x.tolist() for x in (row, kind, start, end, scores))
        for i, category, a, b, p in zip(*columns, strict=True):
            found[i].append(Entity(self.labels.categories[category], a, b, work.texts[i][a:b], p))
        return found

    def _read_spans(self, work: "_Work", convention: str) -> tuple[np.ndarray, ...]:
        """Text, category, first character, end and score of each entity, all [E]."""
        self.labels.check(convention)
        with self._shortage_told():
            parts = [spans_of(*batch) for batch in work.running]
        if not parts:  # no text has a token
            return (np.zeros(0, np.int64),) * 5
        first, last, kind, scores = (np.concatenate(x) for x in zip(*parts, strict=True))
        # One that windows share has its middle in the part of one of them that counts.
        kept = work.inside[(first + last) // 2]
        first, last, kind, scores = (x[kept] for x in (first, last, kind, scores))
        columns = work.text[first], kind, work.start[first], work.end[last], scores
        order = np.lexsort((kind, columns[3], columns[2], columns[0]))
        return tuple(x[order] for x in columns)

    def _read_tags(self, work: "_Work", convention: str) -> tuple[np.ndarray, ...]:
        """As `_read_spans`."""
        tag = np.zeros(len(work.kept), np.int32)
        log_p, log_step = np.zeros((2, len(work.kept)), np.float32)
        with self._shortage_told():
            for source, target, outputs in work.running:
                tag[source], log_p[source], log_step[source] = (
                    np.asarray(x).ravel()[target] for x in outputs
                )
        tag[work.breaks] = self.labels.outside
        kept = work.kept | work.last if convention == "mmocr" else work.kept
        row, tag, log_p, log_step = (x[kept] for x in (work.text, tag, log_p, log_step))
        before = np.searchsorted(row, np.arange(len(work.texts)))  # words of the texts before
        spans = self.labels.spans(tag, row, np.arange(len(row)) - before[row], convention)

        first, stop = before[spans.row] + spans.start, before[spans.row] + spans.end
        total = np.cumsum(log_step, dtype=np.float64)
        scores = np.exp(log_p[first] + total[stop - 1] - total[first])
        start, end = work.start[kept][first], work.end[kept][stop - 1]
        return spans.row, spans.type, start, end, scores

    def _words(self, work: "_Work") -> list["Words"]:
        """Wait for the device."""
        table = np.zeros((len(work.kept), len(self.labels)), np.float32)
        with self._shortage_told():
            for source, target, (output,) in work.running:
                table[source] = np.asarray(output).reshape(-1, len(self.labels))[target]
        table[work.breaks] = np.eye(len(self.labels))[self.labels.outside]
        # What is kept is every word of each text once, in their order.
        cuts = np.searchsorted(work.text[work.kept], np.arange(1, len(work.texts)))
        columns = (np.split(x[work.kept], cuts) for x in (table, work.start, work.end))
        return [Words(*text) for text in zip(*columns, strict=True)]


class Words(NamedTuple):
    """What a text's words are likely to be; with one token a character each is a word."""

    table: np.ndarray  # float32 [W, C], the probability of every tag
    start: np.ndarray  # int32 [W], characters [start, end) of the text
    end: np.ndarray  # int32 [W]


class _Work(NamedTuple):
    """Texts that the device is at. Arrays are over all tokens of all pieces, in the order of the texts."""

    texts: Sequence[str]
    text: np.ndarray  # whose token it is
    start: np.ndarray  # the characters [start, end) of its word
    end: np.ndarray
    inside: np.ndarray  # whether it is in the part of its window that counts
    kept: np.ndarray  # whether its tag counts
    breaks: np.ndarray  # whether it stands for a line break
    last: np.ndarray  # whether it is the [SEP] behind the text
    # Source and target of each batch (see `Batch`), and what the device makes of it.
    running: list[tuple[np.ndarray, np.ndarray, Any]]


def _logits(config: BertConfig, params: Params, input_ids: Array, mask: Array) -> Array:
    positions = jnp.broadcast_to(jnp.arange(input_ids.shape[1], dtype=jnp.int32), input_ids.shape)
    logits = apply(config, params, input_ids, mask, positions)
    return global_pointer.scores(logits) if config.head == "global_pointer" else logits


def make_decoder(config: BertConfig, labels: LabelSet) -> Decoder:
    """What reads the scores of this model's head; of spans it knows no more than the head's name."""
    spans = isinstance(labels, SpanLabels)
    legal = np.zeros((0, 0), bool) if spans else labels.legal_steps()
    return Decoder(config.head, legal, labels.outside)


def _scores(
    config: BertConfig, sharding: NamedSharding | None, params: Params, *batch: Array
) -> tuple[Params, Logits, Chain]:
    """What a decoder takes; `batch` is input_ids, segment_ids, positions, words [B, T]."""
    mesh: AbstractContextManager[Any] = nullcontext()
    if sharding is not None:
        mesh = jax.sharding.use_abstract_mesh(sharding.mesh.abstract_mesh)
    input_ids, segment_ids, positions, words = batch
    with mesh:
        logits = apply(config, params, input_ids, segment_ids, positions)
    head = params["head"]
    if config.ensemble > 1:  # of a CRF's transitions, too, the mean
        head = jax.tree.map(lambda x: x.mean(0), head)
    return head, logits, chain(segment_ids, positions, words > 0)


def _best(
    config: BertConfig,
    decoder: Decoder,
    sharding: NamedSharding | None,
    params: Params,
    *batch: Array,
) -> Decoded | Found:
    head, logits, chains = _scores(config, sharding, params, *batch)
    if config.head == "global_pointer":
        return global_pointer.found(logits, batch[1], chains)
    return decoder.best(head, logits, chains)


def _probabilities(
    config: BertConfig,
    decoder: Decoder,
    sharding: NamedSharding | None,
    params: Params,
    *batch: Array,
) -> tuple[Array]:
    return (decoder.probabilities(*_scores(config, sharding, params, *batch)),)
