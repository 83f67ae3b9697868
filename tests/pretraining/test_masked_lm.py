"""Pre-training: masking, the loss, and runs from plain text to a tagger."""

import json
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from ml_collections import ConfigDict

from configs import demo, pretrain
from flax_ner.data.synthetic import synthetic
from flax_ner.errors import UserError
from flax_ner.fit import fit
from flax_ner.model.bert import BertConfig
from flax_ner.model.dropout import row_keys
from flax_ner.model.mlm_head import abstract_masked_lm, apply_masked_lm, init_masked_lm
from flax_ner.pretraining.chunks import Rows
from flax_ner.pretraining.masked_lm import MaskedLM, _loss
from flax_ner.pretraining.masking import Masking
from flax_ner.text.tokenizer import CharTokenizer
from flax_ner.text.vocab import SPECIAL_TOKENS, build_vocab, write_vocab
from flax_ner.training import interruption
from flax_ner.training.interruption import Interrupted
from flax_ner.training.loss import StepOptions, accumulate_gradients
from flax_ner.training.random_keys import paired_row_keys
from flax_ner.weights.model_dir import load_model, save_model

TOKENIZER = CharTokenizer([*SPECIAL_TOKENS, *map(chr, range(0x4E00, 0x4E00 + 95))])
SCORED = np.arange(5, 60)  # the tokens, of 100, that occur in the text
MASKING = Masking(TOKENIZER, SCORED)
CLS, SEP, MASK = 2, 3, 4


def rows(count: int, width: int = 32) -> Rows:
    """Return rows of two segments and some padding."""
    random = np.random.default_rng(0)
    ids = random.choice(SCORED, (count, width)).astype(np.int32)
    half = width // 2
    segments = np.repeat([1, 2], half).astype(np.int32) * np.ones((count, 1), np.int32)
    positions = np.tile(np.arange(half, dtype=np.int32), (count, 2))
    ids[:, [0, half]], ids[:, half - 1] = CLS, SEP
    end = random.integers(half + 2, width, count)
    ids[np.arange(count), end] = SEP
    after = np.arange(width) > end[:, None]
    for array in (ids, segments, positions):
        array[after] = 0
    return Rows(*map(jnp.asarray, (ids, segments, positions)))


def test_masks_have_the_expected_fractions_and_skip_special_tokens() -> None:
    batch = rows(2000)
    mask = jax.jit(partial(MASKING.mask, share=0.3))
    masked = mask(row_keys(jax.random.key(0), 2000), batch.input_ids, batch.segment_ids)
    ids, counted, positions = (
        np.asarray(x) for x in (batch.input_ids, masked.counted, masked.positions)
    )
    real = (np.asarray(batch.segment_ids) > 0) & (ids != CLS) & (ids != SEP)
    assert np.abs(counted.sum(1) - 0.3 * real.sum(1)).max() < 0.51
    assert positions.shape[1] == round(0.3 * 32)
    chosen = np.zeros_like(real)
    np.add.at(chosen, (np.nonzero(counted)[0], positions[counted]), True)
    assert chosen.sum() == counted.sum()  # no token twice
    assert not (chosen & ~real).any()

    new, old = np.asarray(masked.input_ids), ids
    assert (new == old)[~chosen].all()
    assert (SCORED[np.asarray(masked.labels)[counted]] == old[tuple(
        (np.nonzero(counted)[0], positions[counted])
    )]).all()  # fmt: skip
    total = chosen.sum()
    hidden, same = (new == MASK) & chosen, (new == old) & chosen
    assert hidden.sum() / total == pytest.approx(0.8, abs=0.02)
    # One in 55 random tokens is the original one.
    assert same.sum() / total == pytest.approx(0.1 + 0.1 / len(SCORED), abs=0.01)
    assert set(new[chosen & ~hidden]) <= set(SCORED)
    # All tokens are equally likely.
    share = chosen[:, 1 : 32 // 2 - 1].mean(0)
    assert np.abs(share - share.mean()).max() < 0.05
    other = mask(row_keys(jax.random.key(1), 2000), batch.input_ids, batch.segment_ids)
    assert (np.asarray(other.positions) != positions).any()


def model(**fields: Any) -> BertConfig:
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    no_dropout = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    return BertConfig(100, 1, intermediate_size=32, **sizes, **{**no_dropout, **fields})


def test_the_loss_equals_a_direct_computation() -> None:
    config, batch, keys = model(), rows(3), paired_row_keys(jax.random.key(5), 3)
    params = init_masked_lm(config, jax.random.key(0))
    params["head"]["bias"] = jax.random.normal(jax.random.key(1), (100,))
    loss = _loss(config, MASKING, 0.3, params, batch, keys)

    masked = MASKING.mask(keys[:, 0], batch.input_ids, batch.segment_ids, 0.3)
    all_positions = jnp.tile(jnp.arange(32), (3, 1))
    logits = apply_masked_lm(
        config, params, masked.input_ids, *batch[1:], all_positions, jnp.asarray(SCORED)
    )
    log_p = np.asarray(jax.nn.log_softmax(logits))
    losses = [
        -log_p[row, position, np.flatnonzero(batch.input_ids[row, position] == SCORED)[0]]
        for row in range(3)
        for position, counts in zip(masked.positions[row], masked.counted[row], strict=True)
        if counts
    ]
    assert float(loss) == pytest.approx(np.mean(losses), rel=1e-5)
    assert len(losses) < masked.positions.size  # some entries are not counted


@pytest.mark.slow
@pytest.mark.parametrize("rate", [0.0, 0.3])
def test_micro_batches_have_the_masks_and_gradients_of_the_whole_batch(rate: float) -> None:
    config, batch = model(hidden_dropout_prob=rate, attention_probs_dropout_prob=rate), rows(4)
    state = {"params": init_masked_lm(config, jax.random.key(0)), "step": jnp.int32(3)}

    def counted(batch: Any) -> Any:
        return MASKING.counts(batch.input_ids, batch.segment_ids, 0.3).sum()

    loss = partial(_loss, config, MASKING, 0.3)
    whole, grads = accumulate_gradients(loss, counted, 0, StepOptions())(state, batch)
    accumulated, sums = accumulate_gradients(
        loss, counted, 0, StepOptions(gradient_accumulation_steps=2)
    )(state, batch)
    assert float(accumulated) == pytest.approx(float(whole), rel=1e-5)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=1e-6), sums, grads)


@pytest.mark.parametrize("scan_layers", [False, True])
def test_abstract_masked_lm_has_the_shapes_of_the_parameters(scan_layers: bool) -> None:
    config = model(scan_layers=scan_layers)
    shapes, params = abstract_masked_lm(config), init_masked_lm(config, jax.random.key(0))
    assert jax.tree.map(jnp.shape, params) == jax.tree.map(lambda x: x.shape, shapes)


TINY = {
    "model.hidden_size": 32,
    "model.num_hidden_layers": 1,
    "model.num_attention_heads": 2,
    "model.intermediate_size": 32,
    "model.max_position_embeddings": 32,
    "tokenizer.min_count": 1,
    "data.batch_size": 8,
    "data.max_length": 32,
    "eval.batch_size": 8,
    "train.steps": 120,
    "train.steps_per_dispatch": 5,
    "pretrain.steps_per_chunk": 40,
    "optimizer.learning_rate": 1e-2,
    "checkpoint.every": 0,
    "mesh.data": 1,
}


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("texts")
    lines = [example.text for example in synthetic("train", 10)]
    for split, times in (("train", 20), ("dev", 2)):
        (folder / split).write_text("\n".join(lines * times), "utf-8")
    return folder


def small(texts: Path, **changes: Any) -> ConfigDict:
    config = pretrain.get_config()
    files = {f"data.{split}": str(texts / split) for split in ("train", "dev")}
    fields = {name.replace("__", "."): value for name, value in changes.items()}
    config.update_from_flattened_dict(TINY | files | fields)
    return config


def test_micro_batches_must_divide_the_default_batch_size(texts: Path) -> None:
    config = small(texts, data__batch_size=None, train__gradient_accumulation_steps=3)
    with pytest.raises(UserError, match=r"does not divide data\.batch_size 16"):
        MaskedLM(config)


def test_an_encoder_trained_with_cudnn_is_saved_with_the_usual_dropout(texts: Path) -> None:
    cudnn = {"model__attention": "cudnn", "model__compute_dtype": "bfloat16"}
    task = MaskedLM(small(texts, model__hidden_size=32, **cudnn))
    config = task.saved({"encoder": {}, "head": {}}).config
    assert (config.attention, config.attention_probs_dropout_prob) == ("xla", 0.1)


def metrics(workdir: Path) -> list[dict[str, Any]]:
    rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    clock = ("seconds", "tokens_per_second")
    assert all(name in row for row in rows for name in clock)
    return [{name: x for name, x in row.items() if name not in clock} for row in rows]


def params(path: Path) -> dict[str, np.ndarray]:
    return {
        name: np.asarray(x) for name, x in flatten_dict(load_model(path).params, sep="/").items()
    }


@pytest.fixture(scope="module")
def trained(texts: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    workdir = tmp_path_factory.mktemp("whole") / "run"
    scores = fit(small(texts), workdir)
    assert scores["accuracy"] == max(
        row["accuracy"] for row in metrics(workdir) if row["split"] == "dev"
    )
    return workdir


@pytest.mark.slow
@pytest.mark.every_python
def test_training_evaluates_after_each_chunk_and_improves(trained: Path) -> None:
    rows = metrics(trained)
    train, dev = ([row for row in rows if row["split"] == split] for split in ("train", "dev"))
    assert [row["step"] for row in dev] == [40, 80, 120]
    assert train[-1]["loss"] < 0.75 * train[0]["loss"]
    assert dev[-1]["loss"] < dev[0]["loss"] and dev[-1]["accuracy"] > 0.2
    per_epoch = train[-1]["step"] / train[-1]["epoch"]
    assert per_epoch < 40  # a chunk spans two epochs
    assert {path.name for path in (trained / "text").iterdir()} == {"train", "dev"}


@pytest.mark.slow
@pytest.mark.every_python
def test_a_resumed_run_is_bit_identical(
    texts: Path, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter(range(10**6))
    with monkeypatch.context() as patch:
        patch.setattr(interruption.time, "monotonic", lambda: float(next(clock)))
        with pytest.raises(
            Interrupted, match=r"stopped by train.max_seconds after step \d+ of 120"
        ):
            fit(small(texts, train__max_seconds=40), tmp_path)
    stopped = metrics(tmp_path)[-1]["step"]
    assert 0 < stopped < 120
    fit(small(texts), tmp_path)
    assert metrics(tmp_path) == metrics(trained)
    for name in ("best", "last"):
        expected, resumed = params(trained / name), params(tmp_path / name)
        assert expected.keys() == resumed.keys()
        assert all((expected[key] == resumed[key]).all() for key in expected)


@pytest.mark.slow
@pytest.mark.every_python
def test_a_tagger_starts_from_the_encoder(texts: Path, trained: Path, tmp_path: Path) -> None:
    best = load_model(trained / "best")
    assert best.labels is None and "head" not in best.params
    assert (best.tokenizer, best.lower_case, best.max_length) == ("char", True, 32)
    # Pre-training has no dropout, but the saved encoder has the usual rates for taggers.
    assert pretrain.get_config().model.hidden_dropout_prob == 0.0
    assert best.config.hidden_dropout_prob == best.config.attention_probs_dropout_prob == 0.1
    config = demo.get_config()
    shape = {name: value for name, value in TINY.items() if name.startswith("model.")}
    config.update_from_flattened_dict(
        shape | {"data.train": "train 60", "data.dev": "dev 5", "init_from": str(trained / "best"),
                 "data.max_length": 32, "train.steps": 1, "train.standardise": False,
                 "optimizer.warmup": 1.0}  # so that the learning rate is 0
    )  # fmt: skip
    fit(config, tmp_path / "tagger")
    expected = params(trained / "best")
    tagger = params(tmp_path / "tagger" / "last")
    names = {name for name in expected if name.startswith("encoder/")}
    assert names == {name for name in tagger if name.startswith("encoder/")}
    assert all((tagger[name] == expected[name]).all() for name in names)


@pytest.mark.slow
@pytest.mark.every_python
@pytest.mark.parametrize("whole", [True, False])
def test_pre_training_continues_from_encoder_and_head(
    texts: Path, trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], whole: bool
) -> None:
    source = load_model(trained / "best")
    if not whole:
        del source.params["masked_lm"]
    save_model(tmp_path / "source", source)
    more = tmp_path / "more.txt"
    more.write_text("\n".join(["天地玄黄宇宙洪荒"] * 50), "utf-8")
    config = small(texts, init_from=str(tmp_path / "source"), data__train=str(more), train__steps=1)
    config.optimizer.warmup = 1.0  # so that the learning rate is 0
    accuracy = fit(config, tmp_path / "run")["accuracy"]
    printed = " ".join(capsys.readouterr().out.split())
    assert ("freshly initialised" in printed) is not whole
    expected, result = params(tmp_path / "source"), params(tmp_path / "run" / "last")
    assert all((result[name] == expected[name]).all() for name in expected)
    assert load_model(tmp_path / "run" / "last").vocab == source.vocab
    # With the head, accuracy on the same dev data is as before.
    before = max(row["accuracy"] for row in metrics(trained) if row["split"] == "dev")
    assert (accuracy > 0.9 * before) is whole


def test_errors_are_raised_before_the_work_directory_is_created(
    texts: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    with pytest.raises(UserError, match=r"^data\.train: no file 'none'"):
        fit(small(texts, data__train="none"), run)
    write_vocab(tmp_path / "vocab.txt", build_vocab(["天地"])[:4])
    with pytest.raises(UserError, match=r"^tokenizer\.vocab: .*vocab\.txt lacks \[MASK\]"):
        fit(small(texts, tokenizer__vocab=str(tmp_path / "vocab.txt")), run)
    with pytest.raises(UserError, match=r"^train\.r_drop: 1\.0, but task 'masked_lm'"):
        fit(small(texts, train__r_drop=1.0), run)
    for name, value in (("loss.name", "focal"), ("data.batching", "pad"), ("distill.teacher", "x")):
        with pytest.raises(UserError, match=rf"^{name}: '{value}', but task 'masked_lm'"):
            fit(small(texts, **{name: value}), run)
    with pytest.raises(UserError, match=r"^pretrain\.mask_prob: 1\.0"):
        fit(small(texts, pretrain__mask_prob=1.0), run)
    assert not run.exists()


@pytest.mark.slow
@pytest.mark.every_python
def test_a_run_resumes_with_a_moved_text_but_not_with_a_changed_one(
    texts: Path, tmp_path: Path
) -> None:
    text = tmp_path / "train"
    text.write_bytes((texts / "train").read_bytes())
    config = small(texts, data__train=str(text), train__steps=5)
    fit(config, tmp_path / "run")
    before = text.read_bytes()
    text.write_bytes(before + "\n天".encode())
    with pytest.raises(
        UserError, match=r"inputs: the vocabulary of data\.train, data\.train\. Restore"
    ):
        fit(config, tmp_path / "run")
    first, *others = before.splitlines()
    text.write_bytes(b"\n".join([*others, first]))  # the same character counts
    with pytest.raises(UserError, match=r"started with other inputs: data\.train\. Restore"):
        fit(config, tmp_path / "run")
    inputs = tmp_path / "run" / "inputs.json"
    digests = json.loads(inputs.read_text())
    old = {name: digest for name, digest in digests.items() if not name.startswith("data.")}
    inputs.write_text(json.dumps(old))  # as written by earlier versions
    with pytest.raises(UserError, match=r"^data\.train: .*train or its vocabulary has changed"):
        fit(config, tmp_path / "run")
    text.write_bytes(before)
    inputs.write_text(json.dumps(digests))
    files = [tmp_path / "run" / "text" / "train" / name for name in ("ids.bin", "made_of.json")]
    times = [path.stat().st_mtime_ns for path in files]
    config.data.train = str(text.rename(tmp_path / "moved"))
    fit(config, tmp_path / "run")
    assert [path.stat().st_mtime_ns for path in files] == times  # not tokenized again


@pytest.mark.slow
@pytest.mark.every_python
def test_the_masks_of_a_row_depend_on_its_key_only() -> None:
    batch, keys = rows(8), row_keys(jax.random.key(0), 8)
    whole = MASKING.mask(keys, batch.input_ids, batch.segment_ids, 0.3)
    second = MASKING.mask(keys[4:], batch.input_ids[4:], batch.segment_ids[4:], 0.3)
    for one, other in zip(whole, second, strict=True):
        np.testing.assert_array_equal(one[4:], other)
    hidden = np.asarray(whole.counted).sum()
    assert hidden > 20 and (np.asarray(whole.input_ids) == MASK).sum() > hidden / 2


@pytest.mark.slow
@pytest.mark.every_python
def test_invalid_lines_are_skipped_and_listed(texts: Path, tmp_path: Path) -> None:
    bad = tmp_path / "bad.txt"
    bad.write_bytes((texts / "train").read_bytes() + b"\n\xff\n")
    changes = {"data__train": str(bad), "tokenizer__min_count": 2, "train__steps": 1}
    with pytest.raises(UserError, match=r"bad\.txt:201: not UTF-8"):
        fit(small(texts, **changes), tmp_path / "run")
    fit(small(texts, data__on_error="skip", **changes), tmp_path / "run")
    (line,) = (tmp_path / "run" / "skipped.txt").read_text().splitlines()
    assert "bad.txt:201: not UTF-8" in line


@pytest.mark.slow
def test_eight_devices_give_the_same_losses_as_one(
    texts: Path, trained: Path, tmp_path: Path
) -> None:
    fit(small(texts, mesh__data=4, mesh__fsdp=2, train__steps=10), tmp_path / "run")
    fit(small(texts, train__steps=10), tmp_path / "one")
    for row, expected in zip(metrics(tmp_path / "run"), metrics(tmp_path / "one"), strict=True):
        assert row["loss"] == pytest.approx(expected["loss"], abs=1e-3)
