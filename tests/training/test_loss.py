"""Loss options, EMA and learning-rate scaling, on cases small enough to compute by hand."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from flax_ner.config import default_config
from flax_ner.model.bert import BertConfig
from flax_ner.model.decoding import Decoder
from flax_ner.model.losses import cross_entropy
from flax_ner.model.tagging_model import init_params, stack_layers
from flax_ner.text.batches import Batches
from flax_ner.training.loss import (
    StepOptions,
    fgm_perturb,
    make_loss,
    make_tagging_gradients,
    r_drop_divergence,
)
from flax_ner.training.mesh import batch_sharding, make_mesh
from flax_ner.training.optimizer import make_optimizer, make_schedule, scale_by_layer
from flax_ner.training.random_keys import dev_mask_key, init_key, paired_row_keys, step_key
from flax_ner.training.step import init_state, make_step, used_params

NO_DROPOUT = {
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
    "classifier_dropout": 0.0,
}
SIZES = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
}
LOSS = make_loss(default_config().loss)


def model(**fields: Any) -> BertConfig:
    return BertConfig(vocab_size=30, num_labels=5, **SIZES, **{**NO_DROPOUT, **fields})


def batch(rows: int = 8, width: int = 6) -> Batches:
    """Return rows of different lengths; some tokens have no label."""
    random = np.random.default_rng(0)
    positions = np.broadcast_to(np.arange(width, dtype=np.int32), (rows, width))
    labels = random.integers(-1, 5, (rows, width), np.int32)
    segments = (positions < random.integers(1, width + 1, (rows, 1))).astype(np.int32)
    return Batches(random.integers(0, 30, (rows, width), np.int32), segments, positions, labels)


def state(config: BertConfig) -> dict[str, Any]:
    return {"params": init_params(config, jax.random.key(0)), "step": jnp.int32(3)}


def assert_close(one: Any, other: Any, atol: float = 1e-6) -> None:
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=atol), one, other)


def test_label_smoothing_spreads_probability_over_all_tags() -> None:
    logits = jnp.array([[[1.0, 2.0, 4.0], [0.0, 0.0, 0.0]]])
    log_p = np.asarray(jax.nn.log_softmax(logits))[0, 0]
    target = np.array([0.1 / 3, 0.1 / 3, 0.9 + 0.1 / 3])
    loss = cross_entropy(logits, jnp.array([[2, 0]]), jnp.array([[1, 0]]), label_smoothing=0.1)
    assert float(loss) == pytest.approx(-(target * log_p).sum(), rel=1e-6)


def test_the_r_drop_divergence_is_symmetric() -> None:
    p, q = np.array([0.2, 0.3, 0.5]), np.array([0.6, 0.3, 0.1])
    both = (p * np.log(p / q)).sum() / 2 + (q * np.log(q / p)).sum() / 2
    logits, other = (jnp.log(jnp.array([[x, p]])) + 1.0 for x in (p, q))
    divergence = r_drop_divergence(logits, other, jnp.array([[1, 1]]))
    assert float(divergence) == pytest.approx(both / 2, rel=1e-5)  # 0 at the second token
    assert float(r_drop_divergence(logits, other, jnp.zeros((1, 2)))) == 0


@pytest.mark.slow
def test_r_drop_compares_two_passes_with_different_dropout() -> None:
    rows = batch()
    for config, same in ((model(), True), (model(hidden_dropout_prob=0.5), False)):
        plain, _ = make_tagging_gradients(config, LOSS, 0)(state(config), rows)
        dropped, _ = make_tagging_gradients(config, LOSS, 0, StepOptions(r_drop=1.0))(
            state(config), rows
        )
        more, _ = make_tagging_gradients(config, LOSS, 0, StepOptions(r_drop=3.0))(
            state(config), rows
        )
        assert (float(plain) == pytest.approx(float(dropped), abs=1e-6)) is same
        assert (float(more) == pytest.approx(float(dropped), abs=1e-6)) is same


@pytest.mark.slow
@pytest.mark.every_python
def test_fgm_adds_the_gradients_at_perturbed_embeddings() -> None:
    config, rows = model(), batch()
    before = state(config)
    _, grads = make_tagging_gradients(config, LOSS, 0)(before, rows)
    moved = fgm_perturb(before["params"], grads, 0.5)
    step = (
        moved["encoder"]["embeddings"]["word"] - before["params"]["encoder"]["embeddings"]["word"]
    )
    direction = grads["encoder"]["embeddings"]["word"]
    assert float(jnp.linalg.norm(step)) == pytest.approx(0.5, rel=1e-5)
    np.testing.assert_allclose(step / 0.5, direction / jnp.linalg.norm(direction), atol=1e-6)
    _, adversarial = make_tagging_gradients(config, LOSS, 0)(before | {"params": moved}, rows)
    _, total = make_tagging_gradients(config, LOSS, 0, StepOptions(fgm=0.5))(before, rows)
    assert_close(total, jax.tree.map(jnp.add, grads, adversarial))
    zero = jax.tree.map(jnp.zeros_like, grads)
    assert_close(fgm_perturb(before["params"], zero, 0.5), before["params"], 0)


DROPOUT = {name: 0.3 for name in (*NO_DROPOUT, "word_dropout_prob")}


@pytest.mark.parametrize(
    "recipe", [{}, pytest.param({"fgm": 1.0, "r_drop": 1.0}, marks=pytest.mark.slow)], ids=str
)
@pytest.mark.parametrize("rates", [{}, DROPOUT], ids=["without_dropout", "with_dropout"])
def test_micro_batches_have_the_gradients_of_the_whole_batch(
    rates: dict[str, float], recipe: dict[str, float]
) -> None:
    config, rows = model(**rates), batch()
    loss, grads = jax.jit(make_tagging_gradients(config, LOSS, 0, StepOptions(**recipe)))(
        state(config), rows
    )
    step_options = StepOptions(gradient_accumulation_steps=4, **recipe)
    value, accumulated = jax.jit(make_tagging_gradients(config, LOSS, 0, step_options))(
        state(config), rows
    )
    assert float(value) == pytest.approx(float(loss), rel=1e-5)
    assert_close(accumulated, grads)


def test_random_keys_are_never_reused() -> None:
    """All keys of a seed differ, including those that random bits are drawn from."""
    keys = [init_key(7), *(step_key(7, step) for step in range(50))]
    keys += [dev_mask_key(row) for row in range(50)]
    # Keys that nnx derives for parameters, and that a step derives for its rows.
    keys += [jax.random.fold_in(init_key(7), i) for i in range(50)]
    keys += [k for step in range(20) for k in jax.random.split(step_key(7, step))]
    keys += list(paired_row_keys(step_key(7, 0), 20).ravel())
    unique = [tuple(np.asarray(jax.random.key_data(key)).tolist()) for key in keys]
    assert len(set(unique)) == len(unique)


@pytest.mark.slow
def test_micro_batches_have_rows_of_all_devices() -> None:
    config, mesh = model(), make_mesh(4, 2, 32)
    rows = batch(32)
    placed = jax.tree.map(
        lambda x: jax.device_put(x[None], batch_sharding(mesh))[0], jax.tree.map(jnp.array, rows)
    )
    gradients = make_tagging_gradients(config, LOSS, 0, StepOptions(gradient_accumulation_steps=4))
    with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
        _, grads = jax.jit(gradients)(state(config), placed)
    assert_close(grads, make_tagging_gradients(config, LOSS, 0)(state(config), rows)[1])


@pytest.mark.slow
@pytest.mark.every_python
def test_ema_has_the_configured_decay() -> None:
    config, rows = model(), batch()
    options = default_config().optimizer
    options.learning_rate, options.warmup = 1e-2, 0.0
    schedule = make_schedule(options, 10, 10)
    optimizer = make_optimizer(options, schedule)
    now = init_state(optimizer, init_params(config, jax.random.key(0)), ema=True)
    step = jax.jit(
        make_step(make_tagging_gradients(config, LOSS, 0), optimizer, schedule, ema=0.15)
    )
    expected = now["params"]
    for decay in (0.1, 0.15, 0.15):  # (1 + 0) / (10 + 0), then the decay itself
        now, _ = step(now, rows)
        expected = jax.tree.map(lambda a, p, d=decay: d * a + (1 - d) * p, expected, now["params"])
        assert_close(used_params(now), expected)
    plain = init_state(optimizer, init_params(config, jax.random.key(0)))
    assert used_params(plain) is plain["params"] and "ema" not in plain


@pytest.mark.parametrize("stacked", [False, True])
def test_updates_are_scaled_by_layer(stacked: bool) -> None:
    params = init_params(model(), jax.random.key(0))
    ones = jax.tree.map(jnp.ones_like, stack_layers(params) if stacked else params)
    scale = scale_by_layer(0.5, 3.0)
    scaled, _ = scale.update(ones, scale.init(ones))
    layers = scaled["encoder"]["layers"]
    if stacked:
        layers = [jax.tree.map(lambda x, i=i: x[i], layers["stacked"]) for i in range(2)]
    else:
        layers = [layers["0"], layers["1"]]
    for tree, factor in (
        (scaled["head"], 3.0), (layers[1], 1.0), (layers[0], 0.5), (scaled["encoder"]["embeddings"], 0.25),
    ):  # fmt: skip
        assert all((x == factor).all() for x in jax.tree.leaves(tree))


@pytest.mark.slow
@pytest.mark.every_python
def test_word_dropout_drops_whole_words() -> None:
    """The embedding of a dropped word has no gradient."""
    ids = np.arange(30, dtype=np.int32).reshape(5, 6)
    rows = batch(5)._replace(input_ids=ids, segment_ids=np.ones_like(ids), labels=ids % 5)

    def share_without_gradient(**fields: Any) -> float:
        config = model(**fields)
        _, grads = make_tagging_gradients(config, LOSS, 0)(state(config), rows)
        table = np.asarray(grads["encoder"]["embeddings"]["word"])
        return float((table == 0).all(1).mean())

    assert share_without_gradient() == share_without_gradient(hidden_dropout_prob=0.3) == 0
    assert 0.2 < share_without_gradient(word_dropout_prob=0.5) < 0.8
    assert share_without_gradient(word_dropout_prob=0.99) > 0.9


def test_the_optimizer_state_is_unchanged_without_layer_decay() -> None:
    options = default_config().optimizer
    options.learning_rate = 1e-3
    schedule = make_schedule(options, 10, 10)
    params = {"head": jnp.ones(3)}
    off = make_optimizer(options, schedule).init(params)
    options.layer_decay = 0.9
    on = make_optimizer(options, schedule).init(params)
    assert len(on) == len(off) + 1 and isinstance(on[-1], optax.EmptyState)


@pytest.mark.slow
def test_micro_batches_of_spans_have_the_gradients_of_the_whole_batch() -> None:
    config = model(head="global_pointer")
    made = batch()
    spans = np.zeros((*made.labels.shape, 1), np.int32)
    spans[:, 1, 0] = np.where(made.segment_ids.sum(1) > 3, 1 + np.arange(8) % 5, 0)
    made = made._replace(labels=spans)
    loss_of = make_loss(default_config().loss, Decoder("global_pointer", np.zeros((0, 0)), 0))
    whole = make_tagging_gradients(config, loss_of, 0)(state(config), made)
    accumulated = make_tagging_gradients(
        config, loss_of, 0, StepOptions(gradient_accumulation_steps=4)
    )
    assert float(whole[0]) > 0
    assert_close(accumulated(state(config), made), whole)
