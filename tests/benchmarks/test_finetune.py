"""benchmarks/finetune.py: both sides have the same settings and labels, and its tables."""

import json
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from flax_ner.config import default_config
from flax_ner.text.encoding import encode_examples
from flax_ner.text.examples import Entity, Example
from flax_ner.text.tokenizer_kinds import build_tokenizer
from tests.benchmarks.scripts import load_benchmark


@pytest.fixture(scope="module")
def finetune() -> ModuleType:
    return load_benchmark("finetune")


@pytest.fixture(scope="module")
def trainer() -> ModuleType:
    return load_benchmark("finetune_trainer")


def make_result(
    configuration: str, seed: int, correct: list[int], seconds: float
) -> dict[str, Any]:
    counts = {"gold": [2, 1, 1], "predicted": [2, 1, 1], "correct": correct}
    about = {"machine": "x86_64, 2 cores", "device": "cpu", "versions": {}, "commit": "abc"}
    return about | {
        "kind": "run", "corpus": "wnut17", "configuration": configuration, "seed": seed, "encoder": "minilm",
        "settings": {"epochs": 5}, "rows": 4, "cut_to": 0, "wall_seconds": seconds,
        "peak_mib": 1000, "others_percent": 3, "sentences_per_second": 3000 / seconds,
        "predictions": {"dev": counts, "test": counts | {"correct": [0, 0, 1]}},
    }  # fmt: skip


def test_finetune_prints_tables_of_results(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    record = load_benchmark("finetune_record")
    runs = [
        make_result("best", 0, [1, 1, 0], 100),
        make_result("best", 1, [2, 1, 0], 300),
        make_result("bfloat16", 0, [2, 1, 1], 50),
        make_result("bfloat16", 1, [2, 1, 1], 70),
    ]
    runs[0]["way"] = runs[0].pop("configuration")  # its name in earlier versions
    (tmp_path / "finetune.jsonl").write_text("".join(json.dumps(run) + "\n" for run in runs))
    record.print_tables(tmp_path)
    lines = capsys.readouterr().out.splitlines()
    theirs = [line for line in lines if line.startswith("| transformers, best |")]
    ours = [line for line in lines if line.startswith("| flax_ner, bfloat16 |")]
    assert theirs[0] == "| transformers, best | 2 | 0.6250 | 0.1768 |  |"
    assert ours[0].startswith("| flax_ner, bfloat16 | 2 | 1.0000 | 0.0000 | +0.3750 (")
    assert ours[1].startswith("| flax_ner, bfloat16 | 2 | 0.2500 | 0.0000 | +0.0000 (")
    assert ours[2] == (
        "| flax_ner, bfloat16 | 2 | 60 (50, 70) | 0.30 | 51.4 (42.9, 60.0) | 2.57 | 1,000 | 3 |"
    )
    widths = {line.count("|") for line in lines if line.startswith("|")}
    assert widths == {6, 9}  # each row has as many columns as its heading


@pytest.mark.parametrize("corpus", ["cluener", "wnut17"])
def test_finetune_gives_both_sides_the_same_settings(
    finetune: ModuleType, trainer: ModuleType, tmp_path: Path, corpus: str
) -> None:
    settings = finetune.SETTINGS[corpus]
    config = default_config()
    for name in finetune.CONFIGURATIONS:
        run = finetune.Run(corpus, name, 1, "data", str(tmp_path), str(tmp_path), settings)
        theirs = trainer.trainer_settings(run)
        config.update_from_flattened_dict(
            finetune.flax_settings(run, rows=4)
        )  # fails for an unknown field
        assert config.seed == theirs["seed"]
        assert config.train.epochs == theirs["num_train_epochs"]
        pairs = {
            "learning_rate": "learning_rate", "schedule": "lr_scheduler_type", "warmup": "warmup_steps",
            "weight_decay": "weight_decay", "clip_norm": "max_grad_norm",
            "b1": "adam_beta1", "b2": "adam_beta2", "eps": "adam_epsilon",
        }  # fmt: skip
        for name, other in pairs.items():
            assert config.optimizer[name] == theirs[other], name
    names = ["bert.w", "bert.bias", "classifier.weight", "classifier.bias"]
    groups = trainer.parameter_groups(names, ["bert.w", "classifier.weight"], settings)
    rates = {name: group["lr"] for group in groups for name in group["params"]}
    decays = {name: group["weight_decay"] for group in groups for name in group["params"]}
    encoder, head = config.optimizer.learning_rate, config.optimizer.head_lr_multiplier
    assert list(rates) == names
    assert list(rates.values()) == [encoder, encoder, encoder * head, encoder * head]
    assert list(decays.values()) == [config.optimizer.weight_decay, 0] * 2


def test_finetune_packs_as_many_sentences_per_step_as_trainer(finetune: ModuleType) -> None:
    settings = finetune.SETTINGS["cluener"]
    lengths = np.full(1600, settings.max_length // 4)
    rows, average = finetune.rows_per_step(lengths, settings)
    assert (rows, average) == (settings.sentences // 4, settings.sentences)


def test_finetune_reads_the_tokens_of_cut_data(
    finetune: ModuleType, trainer: ModuleType, tmp_path: Path
) -> None:
    # In WNUT17 the lines between sentences contain a tab.
    text = "Ada\tB-person\n.\tO\n\t\nin\tO\nNew\tB-location\nYork\tI-location\n\nthird\tO\n"
    for split in ("train", "dev", "test"):
        (tmp_path / f"{split}.conll").write_text(text)
    folder = finetune.cut_data("wnut17", tmp_path, tmp_path / "cut", 2)
    first, second = finetune.read_sentences("wnut17", folder, "train")
    assert (first.words, second.words) == (["Ada", "."], ["in", "New", "York"])
    assert second.example.text == "in New York"
    assert [entity[:3] for entity in second.example.entities or ()] == [("location", 3, 11)]
    # Predicted tags are decoded to entities with character offsets; padding has no label.
    labels = finetune.label_set([first.example, second.example])
    golds = np.array([[-100, 2, 0, -100, -100, -100], [-100, 0, 1, -100, 3, -100]])
    tags = np.array([[1, 2, 1, 1, 1, 1], [1, 0, 1, 0, 3, 0]])
    assert labels.names == ["O", "B-location", "B-person", "I-location", "I-person"]
    rows = [{"labels": row.tolist()} for row in golds]
    features = trainer.Features(rows, [[0, 1], [0, 1, 2]])
    predicted = trainer.hf_entities(tags, golds, [first, second], features, labels)
    assert [[entity[:4] for entity in row] for row in predicted] == [
        [("person", 0, 3, "Ada"), ("location", 4, 5, ".")],
        [("location", 3, 11, "New York")],
    ]
    # Trainer can return the rows in another order.
    with pytest.raises(SystemExit, match="order"):
        trainer.hf_entities(tags[::-1], golds[::-1], [first, second], features, labels)


def test_finetune_labels_the_words_of_flax_ner(finetune: ModuleType, trainer: ModuleType) -> None:
    examples = [
        # BERT drops U+FEFF and U+FE0F. It divides tokens at punctuation.
        Example("@Ada likes U.S.", (Entity("location", 11, 15),)),
        Example("Dubbz\ufeff \ufe0f runs", (Entity("person", 0, 6), Entity("person", 7, 8))),
        Example(""),
    ]
    sentences = [load_benchmark("finetune_data").Sentence(example, [], []) for example in examples]
    vocab = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    tokenizer = build_tokenizer("wordpiece", vocab, True)
    split = finetune.split_into_tokenizer_words(sentences, tokenizer)
    words = [["@", "Ada", "likes", "U", ".", "S", "."], ["Dubbz", "runs"], []]
    assert [sentence.words for sentence in split] == words
    assert split[0].spans[1:4] == [(1, 4), (5, 10), (11, 12)]

    class Encoded(dict[str, list[list[int]]]):
        def word_ids(self, i: int) -> list[int | None]:
            return [None, *range(len(words[i])), None]

    def encode(words: list[list[str]], is_split_into_words: bool) -> Encoded:
        return Encoded(input_ids=[[0]] * len(words))

    labels = finetune.label_set(examples)
    features = trainer.hf_features(split, labels, encode)
    labelled = [replace(example, entities=example.entities or ()) for example in examples]
    tokens = encode_examples(labelled, tokenizer, labels, 16)
    assert finetune.trainer_labels(features) == finetune.own_labels(tokens)
    assert finetune.own_labels(tokens) == [0, 0, 0, 1, 3, 3, 3, 2, 0]
