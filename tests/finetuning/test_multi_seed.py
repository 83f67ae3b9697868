"""Several seeds in parallel: each model equals a single run, and `best` is their ensemble."""

import json
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

from flax_ner import load
from flax_ner.config import default_config
from flax_ner.config_checks import check_config
from flax_ner.errors import UserError
from flax_ner.fit import fit
from flax_ner.weights.model_dir import load_model

SEEDS = 3


def small(seeds: int = SEEDS, seed: int = 5) -> ConfigDict:
    config = default_config()
    config.model.update(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16,
        max_position_embeddings=64,
    )  # fmt: skip
    config.data.update(train="train 120", dev="dev 30", format="synthetic", max_length=64)
    config.data.batch_size = 8
    config.train.update(epochs=2, seeds=seeds, steps_per_dispatch=2)
    config.optimizer.learning_rate = 5e-3
    config.checkpoint.keep = 9
    config.mesh.data = 2
    config.seed = seed
    return config


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    workdir = tmp_path_factory.mktemp("seeds") / "run"
    fit(small(), workdir)
    return workdir


def dev_rows(workdir: Path) -> list[dict[str, float]]:
    rows = map(json.loads, (workdir / "metrics.jsonl").read_text("utf-8").splitlines())
    return [row for row in rows if row["split"] == "dev"]


@pytest.mark.slow
def test_each_model_equals_a_run_with_its_seed(run: Path, tmp_path: Path) -> None:
    last_params = []
    for seed in (5, 7):
        fit(small(1, seed), tmp_path / str(seed))
        one = load_model(tmp_path / str(seed) / "last").params
        other = load_model(run / f"seed_{seed}" / "last").params
        jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=2e-5), one, other)
        rows = [row for row in dev_rows(run) if row["seed"] == seed]
        assert [row["f1"] for row in rows] == pytest.approx(
            [row["f1"] for row in dev_rows(tmp_path / str(seed))]
        )
        last_params.append(one)
    differences = jax.tree.map(lambda x, y: np.abs(x - y).max(), *last_params)
    assert max(jax.tree.leaves(differences)) > 0.01


@pytest.mark.slow
def test_a_resumed_run_is_bit_identical(run: Path, tmp_path: Path) -> None:
    workdir = tmp_path / "run"
    shutil.copytree(run, workdir)
    steps = sorted(int(p.name) for p in (workdir / "checkpoints").iterdir() if p.name.isdecimal())
    assert len(steps) == 2
    shutil.rmtree(workdir / "checkpoints" / str(steps[-1]))
    shutil.rmtree(workdir / "last")
    fit(small(), workdir)
    one, other = (load_model(folder / "last").params for folder in (run, workdir))
    assert all(jax.tree.leaves(jax.tree.map(lambda x, y: (x == y).all(), one, other)))
    keys = ("step", "seed", "f1")
    assert [[r[k] for k in keys] for r in dev_rows(workdir)] == [
        [r[k] for k in keys] for r in dev_rows(run)
    ]


@pytest.mark.slow
@pytest.mark.every_python
def test_best_is_the_ensemble_of_the_best_models(run: Path) -> None:
    ensemble = load(run / "best")
    assert ensemble.config.ensemble == SEEDS
    ids = np.arange(24).reshape(2, 12) % len(ensemble.tokenizer.tokens)
    mask = np.ones_like(ids)
    each = [load(run / f"seed_{seed}" / "best").logits(ids, mask) for seed in range(5, 8)]
    np.testing.assert_allclose(ensemble.logits(ids, mask), np.mean(each, 0), atol=1e-5)
    assert np.abs(each[0] - each[1]).max() > 0.01


def test_unsupported_settings_are_rejected(run: Path, tmp_path: Path) -> None:
    config = small()
    config.data.batching = "bucket"
    with pytest.raises(UserError, match=r"data\.batching: 'bucket', but train\.seeds 3 needs"):
        check_config(config)
    config = small()
    config.task, config.data.format = "masked_lm", "auto"
    with pytest.raises(UserError, match=r"train\.seeds: 3, but task 'masked_lm'"):
        check_config(config)
    config = small(1)
    config.init_from = str(run / "best")
    with pytest.raises(UserError, match=r"is an ensemble of 3 models\. Name one of them"):
        fit(config, tmp_path / "other")
