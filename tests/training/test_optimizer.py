"""The learning-rate schedule and the optimizer."""

import jax.numpy as jnp
import numpy as np
import pytest

from flax_ner.config import default_config
from flax_ner.training.optimizer import decay_mask, make_optimizer, make_schedule


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ("linear", [0, 0.5, 1, 0.875, 0.5, 0.0625]),
        ("cosine", [0, 0.5, 1, 0.9619398, 0.5, 0.0096074]),
        ("constant", [0, 0.5, 1, 1, 1, 1]),
    ],
)
def test_warm_up_and_decay_of_the_learning_rate(schedule: str, expected: list[float]) -> None:
    config = default_config().optimizer
    config.update(learning_rate=1.0, schedule=schedule, warmup=0.2)
    rate = make_schedule(config, 20, 5)
    np.testing.assert_allclose([rate(step) for step in (0, 2, 4, 6, 12, 19)], expected, atol=1e-6)


def test_step_schedule_drops_after_the_milestone_epochs() -> None:
    config = default_config().optimizer
    config.update(learning_rate=0.5, schedule="step", warmup=0.0, milestones=(2, 3))
    rate = make_schedule(config, 40, 10)
    steps = (0, 19, 20, 29, 30, 39)
    np.testing.assert_allclose(
        [rate(s) for s in steps], [0.5, 0.5, 0.05, 0.05, 0.005, 0.005], rtol=1e-6
    )


def test_weight_decay_skips_biases_and_layernorm() -> None:
    params = {"dense": {"kernel": 1, "bias": 1}, "mlp_norm": {"scale": 1, "bias": 1}, "word": 1}
    assert decay_mask(params) == {
        "dense": {"kernel": True, "bias": False},
        "mlp_norm": {"scale": False, "bias": False},
        "word": True,
    }


def test_adadelta_equals_pytorch() -> None:
    torch = pytest.importorskip("torch")
    config = default_config().optimizer
    config.update(
        name="adadelta", learning_rate=0.5, schedule="constant", warmup=0.0, clip_norm=0.5
    )
    optimizer = make_optimizer(config, make_schedule(config, 10, 10))
    start = np.array([0.3, -1.2, 2.0], np.float32)
    params = {"kernel": jnp.asarray(start)}
    state = optimizer.init(params)
    theirs = torch.nn.Parameter(torch.tensor(start))
    torch_optimizer = torch.optim.Adadelta([theirs], lr=0.5)
    for step in range(10):
        gradient = np.array([0.1 * step, -0.2, 1.0 - step], np.float32)
        updates, state = optimizer.update({"kernel": jnp.asarray(gradient)}, state, params)
        params = {"kernel": params["kernel"] + updates["kernel"]}
        theirs.grad = torch.tensor(gradient)
        torch.nn.utils.clip_grad_norm_([theirs], 0.5)
        torch_optimizer.step()
    np.testing.assert_allclose(params["kernel"], theirs.detach().numpy(), rtol=1e-5, atol=1e-6)


def test_a_clip_norm_of_0_clips_nothing() -> None:
    config = default_config().optimizer
    config.update(
        name="adadelta", learning_rate=1.0, schedule="constant", warmup=0.0, weight_decay=0.0
    )
    params, grads = {"word": jnp.ones(3)}, {"word": jnp.full(3, 7.0)}
    updates = {}
    for clip_norm in (0.0, 1e9):  # the second is above any norm
        config.clip_norm = clip_norm
        optimizer = make_optimizer(config, make_schedule(config, 10, 5))
        updates[clip_norm] = optimizer.update(grads, optimizer.init(params), params)[0]["word"]
    np.testing.assert_array_equal(updates[0.0], updates[1e9])
