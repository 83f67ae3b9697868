"""A trained model in use: texts in, entities out."""

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import partial
from itertools import chain, islice, repeat, tee
from pathlib import Path
from typing import Any, overload

import jax
import numpy as np
from jax import Array
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from flax_ner.arguments import (
    check_choice,
    check_ids,
    check_instance,
    check_integer,
    check_list,
    check_mask,
    check_path,
    check_probability,
    check_text,
    check_texts,
)
from flax_ner.errors import UserError
from flax_ner.inference.forward import best, logits, make_decoder, probabilities
from flax_ner.inference.rows import WIDTHS, Shapes, batches
from flax_ner.inference.work import Words, Work, entities_of, lay_out, words_of
from flax_ner.memory import explain_jax_errors, shortage_told
from flax_ner.model.bert import DTYPES, BertConfig
from flax_ner.model.tagger import Params, cast_kernels
from flax_ner.text.examples import Entity, Example
from flax_ner.text.labels import LabelSet, SpanLabels
from flax_ner.text.metrics import Scores, score
from flax_ner.text.tokenizer import Tokenizer, Tokens, chunks_of
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
        UserError: there is no such model, it is an encoder without a head, an argument is wrong, jax has no
            usable device, or memory runs out.
    """
    check_path(path, "path")
    if compute_dtype is not None:
        check_choice(compute_dtype, "compute_dtype", DTYPES)
    check_integer(batch_size, "batch_size", 1)
    with explain_jax_errors():
        return _load(path, compute_dtype, batch_size)


def _load(path: str | Path, compute_dtype: str | None, batch_size: int) -> "Tagger":
    model, report = open_model(path, "model")
    for note in report.notes if report else ():
        warnings.warn(f"{path}: {note}", stacklevel=3)  # at the caller of `load`
    if model.labels is None:
        raise UserError(
            f"{path}: an encoder without a head cannot tag. Fine-tune it first: "
            f"python train.py --config configs/cluener.py --workdir DIR --config.init_from={path}"
        )
    tokenizer = model.build_tokenizer()
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

    Raises:
        UserError: an argument has the wrong type, or a number is too small.
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
        check_instance(config, "config", BertConfig)
        check_instance(params, "params", Mapping)
        check_instance(tokenizer, "tokenizer", Tokenizer)
        check_instance(labels, "labels", LabelSet)
        if sharding is not None:
            check_instance(sharding, "sharding", NamedSharding)
        self.config, self.params, self.tokenizer, self.labels = config, params, tokenizer, labels
        self.max_length = min(
            check_integer(max_length, "max_length", 3),  # [CLS], a token, [SEP]
            config.max_position_embeddings,
        )
        self.batch_size, self.sharding = check_integer(batch_size, "batch_size", 1), sharding
        self._logits = jax.jit(partial(logits, config))
        decoder = make_decoder(config, labels)
        # Every process takes all answers.
        whole = None if sharding is None else NamedSharding(sharding.mesh, P())
        self._best, self._probabilities = (
            jax.jit(partial(forward, config, decoder, sharding), out_shardings=whole)
            for forward in (best, probabilities)
        )
        devices = 1 if sharding is None else sharding.num_devices
        tokens = self.batch_size * WIDTHS[0]
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
            UserError: a wrong argument; or, once it is reached, a text that is no string.
        """
        texts = check_texts(texts, "texts")
        self.labels.check(convention)
        return self._stream(texts, convention, check_probability(threshold, "threshold"))

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
        texts = check_texts(texts, "texts")
        conventions = check_list(conventions, "conventions", "names")
        for i, convention in enumerate(conventions):
            self.labels.check(convention, f"conventions[{i}]")
        found: dict[str, list[list[Entity]]] = {convention: [] for convention in conventions}
        for work in self._ahead(texts, self._best):
            for convention in found:
                found[convention] += self._finish(work, convention)
        return found

    def explain(self, text: str) -> np.ndarray:
        """The probability of every tag at every character, float32 [len(text), C].

        Tags are in the order of `labels.names`. The characters of a word have those of the word; what
        is no part of a word, such as a space, is outside.

        Raises:
            UserError: the head gives spans, and no tags; or the text is no string.
        """
        return next(self.explain_each([check_text(text, "text")]))

    def explain_each(self, texts: Iterable[str]) -> Iterator[np.ndarray]:
        """As `explain`, for one text after another; no more are held at a time than by `stream`."""
        texts, again = tee(check_texts(texts, "texts"))
        return self._per_character(again, self.explain_words(texts))

    def _per_character(
        self, texts: Iterable[str], words_of: Iterator[Words]
    ) -> Iterator[np.ndarray]:
        outside = np.eye(len(self.labels), dtype=np.float32)[self.labels.outside]
        for text, words in zip(texts, words_of, strict=True):
            table = np.tile(outside, (len(text), 1))
            lengths = words.end - words.start
            within = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
            table[np.repeat(words.start, lengths) + within] = np.repeat(
                words.table, lengths, axis=0
            )
            yield table

    def explain_words(self, texts: Iterable[str], tokens: Tokens | None = None) -> Iterator[Words]:
        """As `explain_each`, a word each, which is what the model gives tags to.

        `tokens` are what the tokenizer returns for all the texts, if the caller has them already.
        """
        if isinstance(self.labels, SpanLabels):
            raise UserError(
                "a model with the head global_pointer has no probabilities of tags. Take one with another head."
            )
        work = self._ahead(check_texts(texts, "texts"), self._probabilities, tokens)
        return chain.from_iterable(map(self._words, work))

    def _ahead(
        self, texts: Iterable[str], forward: Forward, tokens: Tokens | None = None
    ) -> Iterator[Work]:
        """Chunks of the texts; the device has the next one before the answers of one are looked at."""
        texts, waiting, count = iter(texts), None, 0
        chunks = None if tokens is None else chunks_of(tokens, CHUNK)
        while chunk := list(islice(texts, CHUNK)):
            if not all(map(isinstance, chunk, repeat(str))):
                for i, text in enumerate(chunk, count):
                    check_text(text, f"texts[{i}]")
            count += len(chunk)
            started = self._start(chunk, forward, next(chunks) if chunks else None)
            if waiting is not None:
                yield waiting
            waiting = started
        if waiting is not None:
            yield waiting

    def compile(self) -> None:
        """Compile ahead what the first use of each shape of batch would compile otherwise.

        After it no call compiles anything, whatever the length of a text. Each shape is run once.
        """
        with self._shortage_told():
            jax.block_until_ready(
                [self._run(self._best, *np.zeros((4, *s), np.int32)) for s in self._shapes.all()]
            )

    def logits(self, input_ids: np.ndarray, attention_mask: np.ndarray) -> Array:
        """Tag scores of tokenised rows, float32 [B, T, C]; a CRF's transitions are not in them.

        Of a GlobalPointer the scores of spans, [B, C, T, T], by their first and last token.

        Args:
            input_ids: int [B, T], T at most `max_position_embeddings`.
            attention_mask: bool or 0/1 [B, T].

        Raises:
            UserError: another shape or dtype, or values that are no ids or no mask.
        """
        ids, mask = check_ids(input_ids, "input_ids"), check_mask(attention_mask, "attention_mask")
        longest, size = self.config.max_position_embeddings, self.config.vocab_size
        if ids.shape != mask.shape or not 1 <= ids.shape[1] <= longest:
            raise UserError(
                f"input_ids {ids.shape}, attention_mask {mask.shape}: both must be [B, T] with "
                f"T at least 1 and T at most {longest}."
            )
        if ids.size and not 0 <= ids.min() <= ids.max() < size:
            raise UserError(
                f"input_ids: values from {ids.min()} to {ids.max()}, but the vocabulary has {size} tokens."
            )
        return self._logits(self.params, ids.astype(np.int32), mask.astype(np.int32))

    def score(self, examples: Sequence[Example], convention: str = "strict") -> Scores:
        """Tag the examples' texts and compare with their entities.

        Raises:
            UserError: with file and line, for an unlabelled example; or a wrong argument.
        """
        self.labels.check(convention)
        examples, gold = check_list(examples, "examples", "Example"), []
        for i, example in enumerate(examples):
            check_instance(example, f"examples[{i}]", Example)
            if example.entities is None:
                raise UserError(f"{example.source}: has no label. Scoring needs labelled data.")
            gold.append(example.entities)
        return score(gold, self([example.text for example in examples], convention), convention)

    def _start(self, texts: Sequence[str], forward: Forward, tokens: Tokens | None = None) -> Work:
        """Tokenise and hand to the device, without waiting for it."""
        if tokens is None:
            tokens = self.tokenizer.tokenize(texts)
        work, ids, first, lengths = lay_out(texts, tokens, self.tokenizer, self.max_length - 2)
        for batch in batches(ids, first, lengths, self._shapes):
            outputs = self._run(forward, *batch[:4])
            work.running.append((batch.source, batch.target, outputs))
        return work

    def _run(self, forward: Forward, *batch: np.ndarray) -> Any:
        """Outputs of a forward pass, not waited for."""
        with self._shortage_told():
            if self.sharding is None:
                arrays = jax.device_put(batch)
            else:
                arrays = [
                    jax.make_array_from_callback(x.shape, self.sharding, x.__getitem__)
                    for x in batch
                ]
            outputs = forward(self.params, *arrays)
        for output in jax.tree.leaves(outputs):
            output.copy_to_host_async()
        return outputs

    def _shortage_told(self) -> AbstractContextManager[None]:
        return shortage_told(
            f"Lower the batch size (now {self.batch_size}): eval.batch_size of a run, --batch-size of "
            "evaluate, predict and web, batch_size of `load`."
        )

    def _finish(self, work: Work, convention: str) -> list[list[Entity]]:
        """Wait for the device and read what it found."""
        with self._shortage_told():
            return entities_of(work, self.labels, convention)

    def _words(self, work: Work) -> list[Words]:
        """Wait for the device."""
        with self._shortage_told():
            return words_of(work, self.labels)
