"""What recipes do besides, each on a case small enough to be worked out by hand."""

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
from flax_ner.model.tagger import init_params, stack_layers
from flax_ner.text.batches import Batches
from flax_ner.training.gradients import Tricks, against, divergence, make_gradients, make_loss
from flax_ner.training.mesh import batch_sharding, make_mesh
from flax_ner.training.optimizer import make_optimizer, make_schedule, scale_by_place
from flax_ner.training.random_keys import dev_mask_key, init_key, paired_row_keys, step_key
from flax_ner.training.step import init_state, make_step, used_params

STILL = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0, "classifier_dropout": 0.0}
SIZES = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
}
LOSS = make_loss(default_config().loss)


def model(**fields: Any) -> BertConfig:
    return BertConfig(vocab_size=30, num_labels=5, **SIZES, **{**STILL, **fields})


def batch(rows: int = 8, width: int = 6) -> Batches:
    """Rows of different lengths, some tokens without a label."""
    random = np.random.default_rng(0)
    positions = np.broadcast_to(np.arange(width, dtype=np.int32), (rows, width))
    labels = random.integers(-1, 5, (rows, width), np.int32)
    segments = (positions < random.integers(1, width + 1, (rows, 1))).astype(np.int32)
    return Batches(random.integers(0, 30, (rows, width), np.int32), segments, positions, labels)


def state(config: BertConfig) -> dict[str, Any]:
    return {"params": init_params(config, jax.random.key(0)), "step": jnp.int32(3)}


def assert_close(one: Any, other: Any, atol: float = 1e-6) -> None:
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=atol), one, other)


def test_a_smoothed_label_is_shared_by_all_tags() -> None:
    logits = jnp.array([[[1.0, 2.0, 4.0], [0.0, 0.0, 0.0]]])
    log_p = np.asarray(jax.nn.log_softmax(logits))[0, 0]
    target = np.array([0.1 / 3, 0.1 / 3, 0.9 + 0.1 / 3])
    found = cross_entropy(logits, jnp.array([[2, 0]]), jnp.array([[1, 0]]), label_smoothing=0.1)
    assert float(found) == pytest.approx(-(target * log_p).sum(), rel=1e-6)


def test_divergence_is_the_mean_of_both_ways() -> None:
    p, q = np.array([0.2, 0.3, 0.5]), np.array([0.6, 0.3, 0.1])
    both = (p * np.log(p / q)).sum() / 2 + (q * np.log(q / p)).sum() / 2
    logits, other = (jnp.log(jnp.array([[x, p]])) + 1.0 for x in (p, q))
    found = divergence(logits, other, jnp.array([[1, 1]]))
    assert float(found) == pytest.approx(both / 2, rel=1e-5)  # the second token is the same in both
    assert float(divergence(logits, other, jnp.zeros((1, 2)))) == 0


@pytest.mark.slow
def test_r_drop_is_of_two_passes_with_dropout_of_their_own() -> None:
    rows = batch()
    for config, same in ((model(), True), (model(hidden_dropout_prob=0.5), False)):
        plain, _ = make_gradients(config, LOSS, 0)(state(config), rows)
        dropped, _ = make_gradients(config, LOSS, 0, Tricks(r_drop=1.0))(state(config), rows)
        more, _ = make_gradients(config, LOSS, 0, Tricks(r_drop=3.0))(state(config), rows)
        assert (float(plain) == pytest.approx(float(dropped), abs=1e-6)) is same
        assert (float(more) == pytest.approx(float(dropped), abs=1e-6)) is same


def test_fgm_adds_the_gradients_a_step_further_up() -> None:
    config, rows = model(), batch()
    before = state(config)
    _, grads = make_gradients(config, LOSS, 0)(before, rows)
    moved = against(before["params"], grads, 0.5)
    step = (
        moved["encoder"]["embeddings"]["word"] - before["params"]["encoder"]["embeddings"]["word"]
    )
    direction = grads["encoder"]["embeddings"]["word"]
    assert float(jnp.linalg.norm(step)) == pytest.approx(0.5, rel=1e-5)
    np.testing.assert_allclose(step / 0.5, direction / jnp.linalg.norm(direction), atol=1e-6)
    _, there = make_gradients(config, LOSS, 0)(before | {"params": moved}, rows)
    _, found = make_gradients(config, LOSS, 0, Tricks(fgm=0.5))(before, rows)
    assert_close(found, jax.tree.map(jnp.add, grads, there))
    still = jax.tree.map(jnp.zeros_like, grads)
    assert_close(against(before["params"], still, 0.5), before["params"], 0)


DROPOUT = {name: 0.3 for name in (*STILL, "word_dropout_prob")}


@pytest.mark.parametrize(
    "recipe", [{}, pytest.param({"fgm": 1.0, "r_drop": 1.0}, marks=pytest.mark.slow)], ids=str
)
@pytest.mark.parametrize("rates", [{}, DROPOUT], ids=["without_dropout", "with_dropout"])
def test_micro_batches_have_the_gradients_of_the_whole_batch(
    rates: dict[str, float], recipe: dict[str, float]
) -> None:
    config, rows = model(**rates), batch()
    loss, grads = jax.jit(make_gradients(config, LOSS, 0, Tricks(**recipe)))(state(config), rows)
    tricks = Tricks(gradient_accumulation_steps=4, **recipe)
    value, found = jax.jit(make_gradients(config, LOSS, 0, tricks))(state(config), rows)
    assert float(value) == pytest.approx(float(loss), rel=1e-5)
    assert_close(found, grads)


def test_initial_values_steps_and_rows_have_keys_of_their_own() -> None:
    """Every key that is made for a seed, and every key that random bits are drawn from, is another one."""
    keys = [init_key(7), *(step_key(7, step) for step in range(50))]
    keys += [dev_mask_key(row) for row in range(50)]
    # What nnx derives for the parameters, and what a step derives for its rows.
    keys += [jax.random.fold_in(init_key(7), i) for i in range(50)]
    keys += [k for step in range(20) for k in jax.random.split(step_key(7, step))]
    keys += list(paired_row_keys(step_key(7, 0), 20).ravel())
    made = [tuple(np.asarray(jax.random.key_data(key)).tolist()) for key in keys]
    assert len(set(made)) == len(made)


@pytest.mark.slow
def test_parts_are_of_all_devices() -> None:
    config, mesh = model(), make_mesh(4, 2, 32)
    rows = batch(32)
    placed = jax.tree.map(
        lambda x: jax.device_put(x[None], batch_sharding(mesh))[0], jax.tree.map(jnp.array, rows)
    )
    gradients = make_gradients(config, LOSS, 0, Tricks(gradient_accumulation_steps=4))
    with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
        _, found = jax.jit(gradients)(state(config), placed)
    assert_close(found, make_gradients(config, LOSS, 0)(state(config), rows)[1])


def test_the_average_of_parameters_forgets_as_it_says() -> None:
    config, rows = model(), batch()
    options = default_config().optimizer
    options.learning_rate, options.warmup = 1e-2, 0.0
    schedule = make_schedule(options, 10, 10)
    optimizer = make_optimizer(options, schedule)
    now = init_state(optimizer, init_params(config, jax.random.key(0)), ema=True)
    step = jax.jit(make_step(make_gradients(config, LOSS, 0), optimizer, schedule, ema=0.15))
    expected = now["params"]
    for decay in (0.1, 0.15, 0.15):  # (1 + 0) / (10 + 0), then the decay itself
        now, _ = step(now, rows)
        expected = jax.tree.map(lambda a, p, d=decay: d * a + (1 - d) * p, expected, now["params"])
        assert_close(used_params(now), expected)
    plain = init_state(optimizer, init_params(config, jax.random.key(0)))
    assert used_params(plain) is plain["params"] and "ema" not in plain


@pytest.mark.parametrize("stacked", [False, True])
def test_rates_fall_from_the_head_down(stacked: bool) -> None:
    params = init_params(model(), jax.random.key(0))
    ones = jax.tree.map(jnp.ones_like, stack_layers(params) if stacked else params)
    scale = scale_by_place(0.5, 3.0)
    found, _ = scale.update(ones, scale.init(ones))
    layers = found["encoder"]["layers"]
    if stacked:
        layers = [jax.tree.map(lambda x, i=i: x[i], layers["stacked"]) for i in range(2)]
    else:
        layers = [layers["0"], layers["1"]]
    for part, factor in (
        (found["head"], 3.0), (layers[1], 1.0), (layers[0], 0.5), (found["encoder"]["embeddings"], 0.25),
    ):  # fmt: skip
        assert all((x == factor).all() for x in jax.tree.leaves(part))


def test_words_are_dropped_as_a_whole() -> None:
    """A dropped word takes no part, so that its row of the table has no gradient."""
    ids = np.arange(30, dtype=np.int32).reshape(5, 6)
    rows = batch(5)._replace(input_ids=ids, segment_ids=np.ones_like(ids), labels=ids % 5)

    def untouched(**fields: Any) -> float:
        config = model(**fields)
        _, grads = make_gradients(config, LOSS, 0)(state(config), rows)
        table = np.asarray(grads["encoder"]["embeddings"]["word"])
        return float((table == 0).all(1).mean())

    assert untouched() == untouched(hidden_dropout_prob=0.3) == 0
    assert 0.2 < untouched(word_dropout_prob=0.5) < 0.8
    assert untouched(word_dropout_prob=0.99) > 0.9


def test_optax_sees_nothing_of_it_when_all_is_off() -> None:
    options = default_config().optimizer
    options.learning_rate = 1e-3
    schedule = make_schedule(options, 10, 10)
    params = {"head": jnp.ones(3)}
    off = make_optimizer(options, schedule).init(params)
    options.layer_decay = 0.9
    on = make_optimizer(options, schedule).init(params)
    assert len(on) == len(off) + 1 and isinstance(on[-1], optax.EmptyState)


@pytest.mark.slow
def test_parts_of_a_batch_of_spans_have_the_gradients_of_the_whole() -> None:
    config = model(head="global_pointer")
    made = batch()
    spans = np.zeros((*made.labels.shape, 1), np.int32)
    spans[:, 1, 0] = np.where(made.segment_ids.sum(1) > 3, 1 + np.arange(8) % 5, 0)
    made = made._replace(labels=spans)
    loss_of = make_loss(default_config().loss, Decoder("global_pointer", np.zeros((0, 0)), 0))
    whole = make_gradients(config, loss_of, 0)(state(config), made)
    parts = make_gradients(config, loss_of, 0, Tricks(gradient_accumulation_steps=4))
    assert float(whole[0]) > 0
    assert_close(parts(state(config), made), whole)
