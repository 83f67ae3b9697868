"""benchmarks/encoder.py: its runs, record, table and plot."""

import argparse
import json
from pathlib import Path

import pytest

from flax_ner import load
from flax_ner.config import default_config
from flax_ner.config_checks import check_config
from flax_ner.data.cluener import write_cluener
from flax_ner.data.synthetic import synthetic
from flax_ner.text.examples import Example
from flax_ner.weights.model_dir import save_model
from tests.benchmarks.scripts import load_benchmark
from tests.exports import random_model
from tests.subwords import TEXTS

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
    # The seconds include those before the interruption.
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
