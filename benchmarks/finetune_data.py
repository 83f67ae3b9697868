"""The settings and data of benchmarks/finetune.py, which both of its sides read.

This module does not import jax, because the processes of Trainer import it.
"""

import json
import re
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from flax_ner.data.column_layout import split_columns
from flax_ner.data.formats import read_examples
from flax_ner.data.tagged import join_tokens
from flax_ner.text.examples import Example
from flax_ner.text.labels import LabelSet
from flax_ner.text.tokenizer import Tokenizer
from flax_ner.text.tokenizer_kinds import build_tokenizer
from flax_ner.text.vocab import read_vocab


@dataclass(frozen=True)
class Settings:
    """The hyperparameters of both sides."""

    learning_rate: float  # peak, of the encoder
    head_lr_multiplier: float  # the head's learning rate as a multiple of the encoder's
    epochs: int = 5
    sentences: int = 16  # per step
    warmup: float = 0.1  # fraction of all steps
    weight_decay: float = 0.01
    clip_norm: float = 1.0
    max_length: int = 128  # tokens, [CLS] and [SEP] included


@dataclass(frozen=True)
class Corpus:
    """A data set and how to read it."""

    splits: tuple[str, ...]
    suffix: str  # of the files
    format: str
    tokenizer: str


SETTINGS = {
    "cluener": Settings(learning_rate=3e-4, head_lr_multiplier=10.0),
    "wnut17": Settings(learning_rate=2e-4, head_lr_multiplier=5.0),
}
CORPORA = {
    "cluener": Corpus(("train", "dev"), "json", "cluener", "char"),
    "wnut17": Corpus(("train", "dev", "test"), "conll", "conll", "wordpiece"),
}
CONFIGURATIONS = {
    "default": "transformers, default",
    "best": "transformers, best",
    "words": "transformers, best, with the labels of flax_ner",
    "float32": "flax_ner, float32",
    "bfloat16": "flax_ner, bfloat16",
}
TRAINER = ("default", "best", "words")
# Without `words`, which explains a difference in wnut17 and equals `best` in cluener.
USUAL_CONFIGURATIONS = ("default", "best", "float32", "bfloat16")
# The defaults of both optimizers, stated so that they stay equal.
B1, B2, EPS = 0.9, 0.999, 1e-8
STEPS_PER_RATE = 20  # steps per throughput measurement; also train.steps_per_dispatch


@dataclass(frozen=True)
class Run:
    """One training run and all of its inputs."""

    corpus: str
    configuration: str
    seed: int
    data: str
    encoder: str
    folder: str
    settings: Settings


class Sentence(NamedTuple):
    """An example as words with one label each: characters, the tokens of a CoNLL file, or BERT's words."""

    example: Example
    words: list[str]
    spans: list[tuple[int, int]]  # characters [start, end) of each word


def split_path(corpus: str, data: Path, split: str) -> Path:
    """Return the file of a split."""
    return data / f"{split}.{CORPORA[corpus].suffix}"


def read_split(corpus: str, data: Path, split: str) -> list[Example]:
    """Read a split as flax_ner does."""
    return read_examples(str(split_path(corpus, data, split)), CORPORA[corpus].format)


def label_set(train: Iterable[Example]) -> LabelSet:
    """Return the BIO tags of the categories of the training data."""
    return LabelSet(sorted({e.type for example in train for e in example.entities or ()}))


def make_tokenizer(corpus: str, encoder: Path) -> Tokenizer:
    """Return flax_ner's tokenizer of an encoder."""
    options = json.loads((encoder / "tokenizer_config.json").read_text("utf-8"))
    kind, vocab = CORPORA[corpus].tokenizer, read_vocab(encoder / "vocab.txt")
    return build_tokenizer(kind, vocab, options["do_lower_case"])


def read_sentences(corpus: str, data: Path, split: str) -> list[Sentence]:
    """Read the words of a split as users of Trainer do.

    Raises:
        SystemExit: the tokens of a CoNLL file do not make the text that flax_ner reads.
    """
    examples = read_split(corpus, data, split)
    if CORPORA[corpus].format != "conll":
        return [
            Sentence(e, list(e.text), [(i, i + 1) for i in range(len(e.text))]) for e in examples
        ]
    blocks: list[list[str]] = [[]]
    # Not splitlines, which also divides at characters that tweets contain.
    for line in split_path(corpus, data, split).read_text("utf-8").split("\n"):
        if line.strip(" \t\r"):
            blocks[-1].append(split_columns(line)[0])
        elif blocks[-1]:
            blocks.append([])
    sentences = [
        Sentence(example, words, join_tokens(words, False)[1])
        for example, words in zip(examples, filter(None, blocks), strict=True)
    ]
    for example, words, _ in sentences:
        if join_tokens(words, False)[0] != example.text:
            sys.exit(
                f"{example.source}: its tokens do not make the text {example.text[:40]!r}. Use the published "
                "files of the data set."
            )
    return sentences


def split_into_tokenizer_words(
    sentences: Sequence[Sentence], tokenizer: Tokenizer
) -> list[Sentence]:
    """Replace the words of each sentence by the words that flax_ner labels."""
    tokens = tokenizer.tokenize([sentence.example.text for sentence in sentences])
    text_ends = np.cumsum(tokens.lengths)
    divided = []
    for sentence, length, text_end in zip(sentences, tokens.lengths, text_ends, strict=True):
        own = slice(text_end - length, text_end)
        first, text = tokens.first[own], sentence.example.text
        starts, ends = tokens.start[own][first], tokens.end[own][first]
        spans = list(zip(starts.tolist(), ends.tolist(), strict=True))
        words = [text[start:end] for start, end in spans]
        divided.append(Sentence(sentence.example, words, spans))
    return divided


def cut_data(corpus: str, data: Path, target: Path, sentences: int) -> Path:
    """Write the first sentences of each split to a folder and return it."""
    conll = CORPORA[corpus].format == "conll"
    target.mkdir(parents=True, exist_ok=True)
    for split in CORPORA[corpus].splits:
        text = split_path(corpus, data, split).read_text("utf-8")
        # A line of only white space separates sentences, too.
        units = re.split(r"\n(?:[ \t\r]*\n)+" if conll else "\n", text.strip("\n"))
        path = split_path(corpus, target, split)
        path.write_text(("\n\n" if conll else "\n").join(units[:sentences]) + "\n", "utf-8")
    return target
