"""Load a trained model and tag texts with it: `load` returns a `Tagger`."""

import math
import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import partial
from itertools import chain, islice, repeat, tee
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

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
from flax_ner.evaluation.metrics import Scores, score
from flax_ner.inference.forward import logits, make_decoder, predict, predict_proba
from flax_ner.inference.frames import read_texts, to_frame
from flax_ner.inference.pending import (
    PendingBatch,
    Words,
    collect_entities,
    collect_log_probs,
    collect_words,
    prepare_inputs,
)
from flax_ner.inference.rows import ROW_WIDTHS, BatchShapes, pack_batches
from flax_ner.memory import explain_jax_errors, explain_out_of_memory
from flax_ner.model.bert import DTYPES, BertConfig
from flax_ner.model.tagging_model import Params
from flax_ner.text.examples import Entity, Example, gold_entities
from flax_ner.text.labels import LabelSet, SpanLabels
from flax_ner.text.tokenizer import Tokenizer, Tokens, split_tokens
from flax_ner.weights.hub import resolve
from flax_ner.weights.model_dir import is_export
from flax_ner.weights.open_model import open_model

if TYPE_CHECKING:
    import pandas as pd

# A jitted function of the params and the first four arrays of `rows.Batch`, each [B, T].
Forward = Callable[..., Any]
TEXTS_PER_BATCH = 1024  # texts that are tokenized and dispatched together
# On a CPU, small batches stay in the caches: 4,096 tokens take a third longer per token than 1,024.
MAX_CPU_TOKENS = 1024


def load(path: str | Path, compute_dtype: str | None = None, batch_size: int = 32) -> "Tagger":
    """Load a trained model and return a `Tagger`.

    Args:
        path: a model directory (such as `WORKDIR/best` or a converted model), PyTorch weights as
            `convert/torch_to_flax.py` takes them, an ONNX export (`python -m flax_ner export`), or
            `owner/name[@revision]` on the Hugging Face hub.
        compute_dtype: `"bfloat16"` for speed, or `"float32"`. Defaults to the dtype of training. Does not
            apply to an ONNX export.
        batch_size: maximum number of 128-token rows per batch, see `Tagger`.

    Returns:
        A tagger. Call it with a text or a list of texts.

    Warns:
        UserWarning: for PyTorch weights, each assumption that the conversion made.

    Raises:
        UserError: the model does not exist or has no head, an argument is invalid, jax has no usable device,
            or memory runs out.

    Example:
        >>> tagger = load("runs/cluener/best")
        >>> tagger("王建国在东海市工作。")
        [Entity(type='name', start=0, end=3, text='王建国', score=...), ...]
    """
    check_path(path, "path")
    if compute_dtype is not None:
        check_choice(compute_dtype, "compute_dtype", DTYPES)
    check_integer(batch_size, "batch_size", 1)
    _check_not_forked()
    with explain_jax_errors():
        return _load(path, compute_dtype, batch_size)


def _load(path: str | Path, compute_dtype: str | None, batch_size: int) -> "Tagger":
    local = resolve(path, "model")
    if is_export(local):
        # Imported here, because it imports this module.
        from flax_ner.inference.onnx_tagger import load_onnx

        return load_onnx(local, compute_dtype, batch_size, str(path))
    model, report = open_model(local, "model", for_inference=True, compute_dtype=compute_dtype)
    for note in report.notes if report else ():
        warnings.warn(f"{path}: {note}", stacklevel=3)  # at the caller of `load`
    if model.labels is None:
        raise UserError(
            f"{path}: an encoder without a head cannot tag. Fine-tune it first: "
            f"python -m flax_ner train --config cluener --workdir DIR --init-from {path}"
        )
    tokenizer = model.build_tokenizer()
    params = jax.device_put(model.params)
    return Tagger(
        model.config,
        params,
        tokenizer,
        model.labels,
        model.max_length,
        batch_size,
        source=str(path),
    )


_jax_process: int | None = None  # the process of the first tagger; a fork inherits the number


def _check_not_forked() -> None:
    """Raise `UserError` in a fork of a process that has a tagger. The threads of jax are missing in a fork."""
    if _jax_process not in (None, os.getpid()):
        raise UserError(
            "this process was forked from one that uses jax, and jax would hang in it. Start processes with "
            'multiprocessing.set_start_method("spawn").'
        )


def _unpickle(cls: type["Tagger"], config: BertConfig, params: Params, *settings: Any) -> "Tagger":
    """Return the tagger that `Tagger.__reduce__` describes, on the default device of this process."""
    with explain_jax_errors():
        return cls(config, jax.device_put(params), *settings)


class Tagger:
    """Find the entities of texts of any length.

    Use `load` to create a tagger from files. Short texts are packed into shared rows. Texts of more
    than `max_length - 2` tokens are split into lines, sentences or overlapping windows
    (`windows.split_into_windows`).

    A tagger can be pickled and copied with `copy.deepcopy`. The new tagger has its own parameters, on jax's
    default device. Do not use a tagger in a forked process: jax hangs there.

    Args:
        config: architecture of the model.
        params: parameters of the model. The attribute may be reassigned between calls.
        tokenizer: converts text to token ids.
        labels: converts tag ids to entities.
        max_length: maximum number of tokens per row, including [CLS] and [SEP].
        batch_size: maximum number of 128-token rows per batch. Wider rows and CPUs use fewer rows.
        sharding: sharding of a batch [B, T] over several devices. With several processes, every
            process must make the same calls. A tagger with a sharding cannot be pickled.
        source: where the model was loaded from, for `repr`.

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
        source: str = "",
    ):
        global _jax_process
        _check_not_forked()
        _jax_process = os.getpid()
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
        self.source = source
        self._logits: Forward = jax.jit(partial(logits, config))
        decoder = make_decoder(config, labels)
        # Outputs are replicated, so that every process can read all of them.
        replicated = None if sharding is None else NamedSharding(sharding.mesh, P())
        self._predict, self._predict_proba = (
            jax.jit(partial(forward, config, decoder, sharding), out_shardings=replicated)
            for forward in (predict, predict_proba)
        )
        devices = 1 if sharding is None else sharding.num_devices
        tokens = self.batch_size * ROW_WIDTHS[0]
        if jax.default_backend() == "cpu":
            tokens = min(tokens, MAX_CPU_TOKENS * devices)
        self._shapes = BatchShapes(self.max_length, tokens, devices)

    def __reduce__(self) -> tuple[Any, ...]:
        """Return how to make this tagger again, for pickle and `copy`: NumPy arrays and settings.

        Raises:
            UserError: the tagger has a sharding. Another process may have other devices.
        """
        if self.sharding is not None:
            raise UserError(
                "a Tagger with a sharding cannot be pickled, because other processes may have other devices. "
                "Pickle one without a sharding, or load the model in each process."
            )
        params = jax.device_get(self.params)
        settings = self.tokenizer, self.labels, self.max_length, self.batch_size, None, self.source
        return _unpickle, (type(self), self.config, params, *settings)

    def __repr__(self) -> str:
        config, categories = self.config, self.labels.categories
        count = f"{config.ensemble} models of " if config.ensemble > 1 else ""
        first = ", ".join(categories[:3]) + (", ..." if len(categories) > 3 else "")
        noun = "category" if len(categories) == 1 else "categories"
        return (
            f"<{type(self).__name__}{f' {self.source!r}' if self.source else ''}: {count}"
            f"{config.num_hidden_layers} layers x {config.hidden_size}, head {config.head}; "
            f"{len(categories)} {noun}: {first}; max_length {self.max_length}; {self.describe_runtime()}>"
        )

    def describe_runtime(self) -> str:
        """Return the size, dtype and device of the parameters, in words."""
        leaves = jax.tree.leaves(self.params)
        size = sum(math.prod(x.shape) for x in leaves) / max(self.config.ensemble, 1)
        devices = {d for x in leaves if isinstance(x, Array) for d in x.devices()}
        kind = next(iter(devices or jax.devices())).device_kind.replace("cpu", "CPU")
        return (
            f"{size / 1e6:.1f}M parameters; {self.config.compute_dtype} on "
            f"{f'{len(devices)} x ' if len(devices) > 1 else ''}{kind}"
        )

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
        """Return the entities of one text, or of each of several texts.

        Args:
            texts: a string, or an iterable of strings.
            convention: how tags are read as entities: `"strict"`, `"lenient"` or `"mmocr"`, see
                `LabelSet.decode`.
            threshold: minimum `score` of the entities to return, in [0, 1].

        Returns:
            A list of entities for a string, and a list of such lists for an iterable. `start` and `end`
            are character offsets into the text. `score` is the joint probability of the entity's tags: the
            product of the tag probabilities for a softmax head, the marginal of the tag sequence for a
            CRF. For a GlobalPointer it is the sigmoid of the span's score. Its entities may be nested if those
            of its training data were (the setting `data.nested`).

        Raises:
            UserError: an argument is invalid, or memory runs out.
        """
        if isinstance(texts, str):
            return next(self.stream([texts], convention, threshold))
        return list(self.stream(texts, convention, threshold))

    def stream(
        self, texts: Iterable[str], convention: str = "strict", threshold: float = 0.0
    ) -> Iterator[list[Entity]]:
        """Yield the entities of each text, in order, without holding all texts in memory.

        Use it for long or endless iterables: at most 2,048 texts are read ahead.

        Args:
            texts: an iterable of strings.
            convention: see `__call__`.
            threshold: see `__call__`.

        Yields:
            The list of entities of the next text, the same as a call returns.

        Raises:
            UserError: an argument is invalid (raised immediately), or a text is not a string (while iterating).
        """
        texts = check_texts(texts, "texts")
        self.labels.check(convention)
        return self._stream(texts, convention, check_probability(threshold, "threshold"))

    def _stream(
        self, texts: Iterable[str], convention: str, threshold: float
    ) -> Iterator[list[Entity]]:
        for pending in self._dispatch_batches(texts, self._predict):
            predicted = self._collect_entities(pending, convention)
            del pending  # free its texts and arrays before the next batch is read
            for entities in predicted:
                yield [e for e in entities if e.score >= threshold] if threshold else entities

    def to_frame(
        self,
        texts: "Iterable[str] | pd.Series",
        convention: str = "strict",
        threshold: float = 0.0,
    ) -> "pd.DataFrame":
        """Return the entities of several texts as a pandas DataFrame with a row per entity.

            >>> frame = tagger.to_frame(posts["text"])
            >>> posts.join(frame[["type", "score"]])  # one row per entity, or one if a post has none

        Args:
            texts: an iterable of strings, or a pandas Series of strings.
            convention: see `__call__`.
            threshold: see `__call__`.

        Returns:
            A DataFrame with the columns `type`, `start`, `end`, `text` and `score`. Its index is that of the
            text: the label in the index of the Series, or the position in `texts` (named `text_index`). A text
            without entities has no row.

        Raises:
            UserError: an argument is invalid, a text is missing (None or NaN) or not a string, pandas is not
                installed, or memory runs out.
        """
        texts, index = read_texts(texts)
        return to_frame(self(texts, convention, threshold), index)

    def by_convention(
        self, texts: Iterable[str], conventions: Sequence[str]
    ) -> dict[str, list[list[Entity]]]:
        """Return the entities of each text under several conventions, with one forward pass.

        Args:
            texts: an iterable of strings.
            conventions: names of conventions, see `LabelSet.decode`.

        Returns:
            For each convention, what a call with it returns.

        Raises:
            UserError: a convention is unknown or does not apply to the model's head, or a text is not a
                string.
        """
        texts = check_texts(texts, "texts")
        conventions = check_list(conventions, "conventions", "names")
        for i, convention in enumerate(conventions):
            self.labels.check(convention, f"conventions[{i}]")
        predicted: dict[str, list[list[Entity]]] = {convention: [] for convention in conventions}
        for pending in self._dispatch_batches(texts, self._predict):
            for convention in predicted:
                predicted[convention] += self._collect_entities(pending, convention)
        return predicted

    def predict_proba(self, text: str) -> np.ndarray:
        """Return the probability of every tag at every character.

        Args:
            text: the text.

        Returns:
            float32 [len(text), C], with tags in the order of `labels.names`. All characters of a word
            have the word's probabilities. Characters outside of words, such as spaces, are O with
            probability 1.

        Raises:
            UserError: the head predicts spans instead of tags, or `text` is not a string.
        """
        return next(self.predict_proba_each([check_text(text, "text")]))

    def predict_proba_each(self, texts: Iterable[str]) -> Iterator[np.ndarray]:
        """Yield the result of `predict_proba` for each text; reads ahead as little as `stream`."""
        texts, again = tee(check_texts(texts, "texts"))
        return self._expand_words(again, self.predict_word_proba(texts))

    def _expand_words(
        self, texts: Iterable[str], words_per_text: Iterator[Words]
    ) -> Iterator[np.ndarray]:
        """Yield tag probabilities per character, float32 [len(text), C], from those per word."""
        outside = np.eye(len(self.labels), dtype=np.float32)[self.labels.outside]
        for text, words in zip(texts, words_per_text, strict=True):
            probs = np.tile(outside, (len(text), 1))
            lengths = words.end - words.start
            within = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
            probs[np.repeat(words.start, lengths) + within] = np.repeat(
                words.table, lengths, axis=0
            )
            yield probs

    def predict_word_proba(
        self, texts: Iterable[str], tokens: Tokens | None = None
    ) -> Iterator[Words]:
        """Yield the tag probabilities of each text's words, the units that the model tags.

        Args:
            texts: an iterable of strings.
            tokens: the tokenizer's output for all texts, if the caller already has it.

        Raises:
            UserError: the head predicts spans instead of tags, or a text is not a string.
        """
        self._check_has_tags()
        pending = self._dispatch_batches(check_texts(texts, "texts"), self._predict_proba, tokens)
        return chain.from_iterable(map(self._collect_words, pending))

    def sequence_log_probs(self, texts: Iterable[str]) -> Iterator[tuple[float, int]]:
        """Yield for each text the log-probability of its predicted tag sequence, and its number of words.

        Args:
            texts: an iterable of strings.

        Raises:
            UserError: the head predicts spans instead of tags, or a text is not a string.
        """
        self._check_has_tags()
        for pending in self._dispatch_batches(check_texts(texts, "texts"), self._predict):
            with self._explain_out_of_memory():
                yield from collect_log_probs(pending)

    def _check_has_tags(self) -> None:
        if isinstance(self.labels, SpanLabels):
            raise UserError(
                "a model with the head global_pointer has no tag probabilities. Use a model with another head."
            )

    def _dispatch_batches(
        self, texts: Iterable[str], forward: Forward, tokens: Tokens | None = None
    ) -> Iterator[PendingBatch]:
        """Yield batches of texts; the next batch is dispatched before the previous one is yielded.

        The device then computes while the host decodes.
        """
        texts, waiting, count = iter(texts), None, 0
        token_batches = None if tokens is None else split_tokens(tokens, TEXTS_PER_BATCH)
        while batch := list(islice(texts, TEXTS_PER_BATCH)):
            if not all(map(isinstance, batch, repeat(str))):
                for i, text in enumerate(batch, count):
                    check_text(text, f"texts[{i}]")
            count += len(batch)
            batch_tokens = next(token_batches) if token_batches else None
            dispatched = self._dispatch(batch, forward, batch_tokens)
            if waiting is not None:
                yield waiting
            waiting = dispatched
        if waiting is not None:
            yield waiting

    def compile(self) -> None:
        """Compile the model for every batch shape ahead of time.

        Use it before serving requests: afterwards no call compiles, whatever the length of the texts.
        Each shape is run once on zeros.
        """
        with self._explain_out_of_memory():
            jax.block_until_ready(
                [self._run(self._predict, *np.zeros((4, *s), np.int32)) for s in self._shapes.all()]
            )

    def logits(self, input_ids: np.ndarray, attention_mask: np.ndarray) -> Array:
        """Return the logits of tokenized rows, one text per row.

        Args:
            input_ids: int [B, T], with T at most `max_position_embeddings`.
            attention_mask: bool or 0/1 [B, T].

        Returns:
            float32 [B, T, C], the emission scores in case of a CRF. For a GlobalPointer, span scores
            float32 [B, C, T, T], indexed by first and last token.

        Raises:
            UserError: a shape or dtype is wrong, or values are out of range.
        """
        _check_not_forked()
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
        """Tag the texts of labelled examples and score the predicted entities.

        Args:
            examples: labelled examples.
            convention: how tags are read and how entities are matched, see `evaluation.metrics.score`.

        Raises:
            UserError: an argument is invalid, or an example has no labels (the message names
                file and line).
        """
        self.labels.check(convention)
        examples = check_list(examples, "examples", "Example")
        for i, example in enumerate(examples):
            check_instance(example, f"examples[{i}]", Example)
        gold = gold_entities(examples)
        return score(gold, self([example.text for example in examples], convention), convention)

    def _dispatch(
        self, texts: Sequence[str], forward: Forward, tokens: Tokens | None = None
    ) -> PendingBatch:
        """Tokenize texts and start the forward pass, without waiting for the outputs."""
        if tokens is None:
            tokens = self.tokenizer.tokenize(texts)
        pending, ids, first, lengths = prepare_inputs(
            texts, tokens, self.tokenizer, self.max_length - 2
        )
        pending.outputs.extend(self._run_windows(forward, ids, first, lengths))
        return pending

    def _run_windows(
        self, forward: Forward, ids: np.ndarray, first: np.ndarray, lengths: np.ndarray
    ) -> Iterator[tuple[np.ndarray, np.ndarray, Any]]:
        """Yield the elements of `PendingBatch.outputs`; the arguments are those of `pack_batches`."""
        for batch in pack_batches(ids, first, lengths, self._shapes):
            yield batch.source, batch.target, self._run(forward, *batch[:4])

    def _run(self, forward: Forward, *batch: np.ndarray) -> Any:
        """Start a forward pass and the copy of its outputs to the host, without waiting for either."""
        _check_not_forked()
        with self._explain_out_of_memory():
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

    def _explain_out_of_memory(self) -> AbstractContextManager[None]:
        return explain_out_of_memory(
            f"Lower the batch size (now {self.batch_size}): eval.batch_size in training, --batch-size of "
            "evaluate, predict, web and serve, or batch_size of `load`."
        )

    def _collect_entities(self, pending: PendingBatch, convention: str) -> list[list[Entity]]:
        # Errors of a dispatch surface when its outputs are read.
        with self._explain_out_of_memory():
            return collect_entities(pending, self.labels, convention)

    def _collect_words(self, pending: PendingBatch) -> list[Words]:
        with self._explain_out_of_memory():
            return collect_words(pending, self.labels)
