"""Benchmarks whose hardware or libraries are missing here: for a GPU, for many chips, against Trainer."""

import argparse
import importlib.util
import json
import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import jax
import numpy as np
import pytest

from flax_ner import load
from flax_ner.config import default_config
from flax_ner.config_checks import check_config
from flax_ner.data.cluener import write_cluener
from flax_ner.data.synthetic import synthetic
from flax_ner.model.bert import BertConfig
from flax_ner.model.tagging_model import init_params
from flax_ner.text.encoding import encode_examples
from flax_ner.text.examples import Entity, Example
from flax_ner.text.tokenizer_kinds import build_tokenizer
from flax_ner.text.vocab import build_vocab, write_vocab
from flax_ner.weights.model_dir import ModelDir, save_model
from tests.exports import random_model
from tests.subwords import TEXTS

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def gpu() -> ModuleType:
    return load_benchmark("gpu")


@pytest.fixture
def gpu_inputs(tmp_path: Path) -> list[str]:
    """Write data, a tiny encoder and text, and return the arguments of benchmarks/gpu.py that name them."""
    train = synthetic("train", 300)
    vocab = build_vocab(example.text for example in train)
    write_cluener(tmp_path / "train.json", train)
    write_cluener(tmp_path / "dev.json", synthetic("dev", 40))
    write_vocab(tmp_path / "vocab.txt", vocab)
    (tmp_path / "text.txt").write_text("\n".join(example.text for example in train * 20))
    config = BertConfig(len(vocab), 1, 64, 2, 2, 128)
    encoder = {"encoder": init_params(config, jax.random.key(0))["encoder"]}
    save_model(tmp_path / "encoder", ModelDir(config, None, vocab, 128, encoder))
    paths = [tmp_path / name for name in ("vocab.txt", "encoder", "text.txt")]
    return [str(tmp_path), str(paths[0]), "--encoder", str(paths[1]), "--text", str(paths[2])]


@pytest.mark.slow
def test_gpu_benchmark_runs_reduced_on_a_cpu(
    gpu: ModuleType, gpu_inputs: list[str], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    result = subprocess.run(
        [sys.executable, "benchmarks/gpu.py", *gpu_inputs, "--out", str(out), "--budget", "1500"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert result.returncode == 0, result.stdout
    assert result.stdout.startswith("jax finds no GPU")
    results: dict[str, list[dict[str, Any]]] = {}
    for line in (out / "results.jsonl").read_text().splitlines():
        row = json.loads(line)
        results.setdefault(row.pop("part"), []).append(row)
    assert list(results) == ["check", *gpu.PARTS]
    assert results["softmax"][0]["steps"] == results["crf"][0]["steps"] == 4
    assert 0 <= results["softmax"][0]["strict_f1"] <= 1
    (base, _), (tagging, *_), (pretraining, _) = (
        results[name] for name in ("base", "tagging", "masked_lm")
    )
    assert base["attention"] == "xla" and base["mfu"] > 0
    assert tagging["texts"] == 40 and tagging["entities"] > 0 and tagging["texts_per_s"] > 0
    # Rows are nearly full, and all of them have the same number of tokens.
    tokens_per_step = pretraining["tokens_per_s"] / pretraining["steps_per_s"]
    assert tokens_per_step == pytest.approx(8 * 128, rel=0.5)
    *attention, trained, _ = results["cudnn"]
    assert all(
        0 < row["gradient_error"] < load_benchmark("gpu_parts").MAX_ATTENTION_ERROR
        for row in attention
    )
    assert trained["attention"] == "cudnn" and trained["ms_per_step"] > 0
    caches = [row["compilation_cache"] for row in results["epochs"][:2]]
    assert caches == ["cold", "warm"]
    assert "skipped" in results["transformers"][0]
    markdown = (out / "results.md").read_text()
    assert all(f"## {part.title}\n" in markdown for part in gpu.PARTS.values())
    assert markdown.strip() in result.stdout


@pytest.mark.slow
def test_gpu_benchmark_goes_on_after_a_part_that_fails_or_hangs(
    gpu: ModuleType, gpu_inputs: list[str], tmp_path: Path
) -> None:
    (tmp_path / "encoder" / "config.json").unlink()
    arguments, log = [*gpu_inputs, "--reduced", "--peak", "1"], tmp_path / "log.txt"
    report, part = gpu.Report(tmp_path / "out"), gpu.PARTS["softmax"]
    rows, note = gpu.run_part("softmax", part, 300, arguments, log, report)
    assert rows == [] and note.startswith("The part failed")
    assert str(tmp_path / "encoder") in note  # train.py's own message
    rows, note = gpu.run_part("tagging", gpu.PARTS["tagging"], 0.5, arguments, log, report)
    assert rows == [] and note.startswith("The part was stopped after")


@pytest.mark.slow
def test_gpu_benchmark_skips_what_does_not_fit_into_the_budget(
    gpu: ModuleType, gpu_inputs: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, vocab, _, encoder, *_ = gpu_inputs
    options = argparse.Namespace(
        data=Path(data), vocab=Path(vocab), encoder=Path(encoder), text=None, out=tmp_path / "out",
        budget=1,
    )  # fmt: skip
    assert gpu.measure_all(options, tmp_path / "log.txt")
    printed = capsys.readouterr().out
    assert printed.count("Skipped: it takes about") == len(gpu.PARTS) - 1
    assert "Skipped: it needs --text." in printed


@pytest.mark.slow
def test_scaling_calculation_agrees_with_the_compiler() -> None:
    result = subprocess.run(
        [sys.executable, "benchmarks/scaling.py", "--reduced"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    calculated = json.loads(result.stdout.strip().splitlines()[-1].strip("`"))
    for model in ("BERT-base", "BERT-large"):
        alone, *_, most = calculated[model]
        assert (alone["data"], alone["fsdp"], alone["sent"]) == (1, 1, 0)
        assert (most["data"], most["fsdp"]) == (1, 256)
        assert (
            alone["state"] / 256 < most["state"] < alone["state"] / 100
        )  # small arrays are not sharded
    meshes = {
        (row["data"], row["fsdp"]): row for row in calculated["compiled"] if row["for"] == "CPU"
    }
    assert meshes.keys() == {(8, 1), (2, 4), (1, 8)}
    # With data parallelism only gradients are sent. With sharding, the compiler chooses some collectives.
    assert meshes[8, 1]["compiled"] == pytest.approx(meshes[8, 1]["formula"], rel=0.01)


def load_benchmark(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, ROOT / "benchmarks" / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.path.insert(0, str(ROOT / "benchmarks"))  # for benchmarks/common.py
    try:
        spec.loader.exec_module(module)
    finally:
        sys.path.pop(0)
    return module


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


ENCODER_RESULT = {
    "configuration": "default", "size": 300, "encoder": "e5", "corpus": "data/cluener/train.json",
    "dev": "dev.json", "compute_dtype": "bfloat16", "seconds": 90,
    "f1_chosen_on": 0.5, "f1_other": 0.25, "f1": 0.375,
}  # fmt: skip


def test_encoder_table_has_means_over_seeds() -> None:
    encoder, first = load_benchmark("encoder"), ENCODER_RESULT | {"seed": 0}
    second = ENCODER_RESULT | {"seed": 1, "f1": 0.625, "seconds": 150}
    crf = first | {"configuration": "crf"}
    results = [first, second, crf, crf | {"f1_test": 0.125}]  # the last one was scored later
    lines = encoder.table(results).splitlines()
    begin, end = "| cluener | 300 | e5 | crf | bfloat16 | 1 |", "0.3750 | 0.1250 | 1.5 |"
    assert lines[2] == f"{begin} 0.5000 | 0.2500 | {end}"
    middle = "0.5000 ± 0.0000 | 0.2500 ± 0.0000 | 0.5000 ± 0.1768 |  | 2.0 |"
    assert lines[3] == f"| cluener | 300 | e5 | default | bfloat16 | 2 | {middle}"
    assert len(lines) == 4 and {text.count("|") for text in lines} == {12}
    # Another data type is another line.
    assert len(encoder.table([*results, first | {"compute_dtype": "float32"}]).splitlines()) == 5


def test_encoder_reads_results_of_earlier_versions(tmp_path: Path) -> None:
    encoder, path = load_benchmark("encoder"), tmp_path / "encoder.jsonl"
    names = ("configuration", "dev", "compute_dtype")
    old = {k: v for k, v in ENCODER_RESULT.items() if k not in names} | {"row": "crf", "seed": 0}
    path.write_text("".join(json.dumps(result) + "\n" for result in (old, ENCODER_RESULT)))
    first, second = encoder.read_results(path)
    assert (first["configuration"], second["configuration"]) == ("crf", "default")
    assert "| crf |" in encoder.table([first])
    assert encoder.read_results(tmp_path / "missing.jsonl") == []


def test_encoder_runs_differ_in_everything_that_decides_the_model(tmp_path: Path) -> None:
    encoder = load_benchmark("encoder")
    options = argparse.Namespace(
        encoder=Path("e5"),
        train=Path("a/train.json"),
        dev=Path("dev.json"),
        compute_dtype="bfloat16",
    )
    key = encoder.make_key(options, "default", 300, 0)
    results, test = [dict(key)], Path("test.json")
    assert encoder.is_done(key, None, results) and not encoder.is_done(key, test, results)
    assert encoder.is_done(key, test, [*results, key | {"test": "test.json", "f1_test": 0.5}])
    folders = {encoder.run_folder(tmp_path, key)}
    others = {
        "encoder": Path("other/e5"), "train": Path("b/train.json"), "dev": Path("other.json"),
        "compute_dtype": "float32",
    }  # fmt: skip
    for name, value in others.items():
        changed = argparse.Namespace(**vars(options) | {name: value})
        other = encoder.make_key(changed, "default", 300, 0)
        assert not encoder.is_done(other, None, results), name
        folders.add(encoder.run_folder(tmp_path, other))
    assert len(folders) == 1 + len(others)


def test_encoder_counts_the_seconds_of_a_resumed_run(tmp_path: Path) -> None:
    # The training loop goes on counting where the interrupted part stopped.
    rows = [{"step": 1, "seconds": 50.0}, {"step": 2, "seconds": 61.5}]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert load_benchmark("encoder").training_seconds(tmp_path) == 61.5


def test_encoder_derives_the_steps_from_the_default_of_the_run() -> None:
    encoder = load_benchmark("encoder")
    data = {"data.format": "synthetic", "data.train": "train 60", "data.dev": "dev 20"}
    steps, epochs = encoder.default_length(data | {"data.batch_size": 8, "train.epochs": 3})
    assert epochs == 3 and steps % 3 == 0 and 3 <= steps <= 3 * 60 / 8 + 3
    assert encoder.STEPS.keys() <= encoder.CONFIGURATIONS.keys()


def test_smaller_draw_is_a_subset_of_a_larger_one() -> None:
    encoder, train = load_benchmark("encoder"), synthetic("train", 50)
    small, large = (encoder.cut(train, size, 3) for size in (10, 30))
    assert large[:10] == small and len({example.text for example in large}) > 10
    assert encoder.cut(train, 10, 4) != small
    chosen, other = encoder.halves(train)
    assert [*chosen, *other] != train and sorted(map(str, [*chosen, *other])) == sorted(
        map(str, train)
    )


def test_all_encoder_configurations_have_valid_settings() -> None:
    encoder = load_benchmark("encoder")
    for fields in (*encoder.CONFIGURATIONS.values(), encoder.SCRATCH_SETTINGS):
        config = default_config()
        config.update_from_flattened_dict(fields)
        check_config(config)


def test_encoder_plots_the_mean_by_the_number_of_sentences(tmp_path: Path) -> None:
    encoder = load_benchmark("encoder")
    write_cluener(tmp_path / "train.json", synthetic("train", 70))
    results = [
        {
            "corpus": str(tmp_path / "train.json"), "configuration": configuration,
            "encoder": name, "size": size, "seed": seed, "f1_other": f1,
        }
        for name in ("scratch", "bert")
        for configuration in ("default", "crf", "bioes")
        for size, seed, f1 in ((10, 0, 0.1), (10, 0, 0.2), (10, 1, 0.3), (0, 0, 0.5))
    ]  # fmt: skip
    labels = ("bert, crf", "bert, default", "scratch, crf", "scratch, default")
    by_size = {10: [0.2, 0.3], 70: [0.5]}
    assert encoder.curves(results, ["default", "crf"]) == {label: by_size for label in labels}
    pytest.importorskip("matplotlib", reason="the plot needs matplotlib")
    encoder.plot(results, tmp_path / "curve.svg")
    assert "<svg" in (tmp_path / "curve.svg").read_text()


def test_roofline_has_all_products_of_a_step() -> None:
    pytest.importorskip("torch", reason="the roofline compares with PyTorch")
    roofline = load_benchmark("roofline")
    model = BertConfig(100, 21, **roofline.SHAPES["narrow"])
    operations = sum(
        2 * count * math.prod(shape) for shape, count in roofline.step_products(model).items()
    )
    assert operations == roofline.step_flops(model, roofline.ROWS, roofline.LENGTH)


def test_exports_are_compared_with_their_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for package in ("onnx", "onnxruntime"):
        pytest.importorskip(package, reason="the extra `onnx` is not installed")
    save_model(tmp_path / "model", random_model())
    write_cluener(tmp_path / "data.json", [Example(text, ()) for text in TEXTS])
    arguments = ["exports.py", str(tmp_path / "model"), str(tmp_path / "data.json")]
    monkeypatch.setattr(sys, "argv", arguments)
    load_benchmark("exports").main()
    ways = json.loads(capsys.readouterr().out.splitlines()[-1].strip("`"))["ways"]
    assert ways["ONNX, float32"]["other_texts"] == 0
    assert ways["ONNX, float32"]["difference"] < 1e-4 < ways["ONNX, int8"]["difference"]


@pytest.mark.slow
def test_encoder_constrains_finished_softmax_models(tmp_path: Path) -> None:
    encoder = load_benchmark("encoder")
    save_model(tmp_path / "constrained", random_model(head="softmax_constrained"))
    texts = [text[i:] for text in TEXTS for i in range(5)]
    predicted = load(tmp_path / "constrained")(texts)
    write_cluener(tmp_path / "dev.json", map(Example, texts, predicted))
    record = tmp_path / encoder.RECORD
    for configuration, head in (("default", "softmax"), ("crf", "crf"), ("bioes", None)):
        about = ("encoder", "train.json", str(tmp_path / "dev.json"), "float32", "encoder")
        key = dict(zip(encoder.KEYS, (configuration, 50, 0, *about), strict=True))
        if head:  # None: the model is gone
            folder = encoder.run_folder(tmp_path, key) / "run"
            save_model(folder / "best", random_model(head=head))
            (folder / "config.json").write_text(json.dumps({"model": {"head": head}}))
        scores = {"f1_chosen_on": 0.1, "f1_other": 0.2, "f1": 0.3, "seconds": 60.0}
        with record.open("a") as file:
            file.write(json.dumps(key | scores | {"test": "test.json", "f1_test": 0.4}) + "\n")

    encoder.constrain(tmp_path)
    encoder.constrain(tmp_path)  # adds nothing

    *_, added = results = encoder.read_results(record)
    names = [result["configuration"] for result in results]
    assert names == ["default", "crf", "bioes", "default, constrained"]
    assert added["f1"] == added["f1_chosen_on"] == added["f1_other"] == 1.0
    assert "f1_test" not in added
    key = {name: results[0][name] for name in encoder.KEYS}
    assert load(encoder.run_folder(tmp_path, key) / "run" / "best")(texts) != predicted
