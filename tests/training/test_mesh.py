"""Sharding over devices."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flax_ner.errors import UserError
from flax_ner.model.bert import BertConfig
from flax_ner.model.tagging_model import abstract_params, init_params
from flax_ner.training.mesh import (
    bytes_per_device,
    make_mesh,
    process_local_rows,
    put_epoch,
    state_shardings,
)


@pytest.mark.parametrize(
    ("data", "fsdp", "batch_size", "message"),
    [
        (16, 1, 16, "mesh.data x mesh.fsdp: 16 x 1, but there are 8 devices"),
        (0, 16, 16, "mesh.fsdp: 16 does not divide the 8 devices"),
        (0, 1, 12, "12 rows do not divide by 8 devices. .* --config.mesh.data=6"),
        (0, 2, 12, "12 rows do not divide by 8 devices. .* --config.mesh.data=3"),
        (0, 8, 12, "12 rows do not divide by 8 devices. Choose a multiple of 8. A"),
    ],
)
def test_an_invalid_mesh_is_rejected(data: int, fsdp: int, batch_size: int, message: str) -> None:
    with pytest.raises(UserError, match=message):
        make_mesh(data, fsdp, batch_size)


def test_fsdp_shards_the_longest_divisible_axis() -> None:
    mesh = make_mesh(2, 4, 8)
    shapes = {"table": (66, 800), "odd": (133, 75), "small": (8,), "step": ()}
    state = {name: jnp.zeros(shape) for name, shape in shapes.items()}
    placed = jax.device_put(state, state_shardings(mesh, state))
    shapes = {name: array.addressable_shards[0].data.shape for name, array in placed.items()}
    assert shapes == {"table": (66, 200), "odd": (133, 75), "small": (8,), "step": ()}


def test_a_process_has_the_rows_of_its_devices() -> None:
    mesh = make_mesh(2, 4, 16)
    assert process_local_rows(mesh, 16).tolist() == list(range(16))  # a single process
    arrays = {"ids": np.arange(3 * 16 * 5).reshape(3, 16, 5)}
    placed = put_epoch(mesh, 16, arrays)["ids"]
    assert placed.addressable_shards[0].data.shape == (3, 2, 5)
    np.testing.assert_array_equal(placed, arrays["ids"])


def test_fsdp_divides_the_memory_by_the_number_of_devices(
    capsys: pytest.CaptureFixture[str],
) -> None:
    config = BertConfig(vocab_size=21128, num_labels=21)  # BERT-base
    shapes = abstract_params(config)
    sizes = {}
    for data, fsdp in ((8, 1), (2, 4), (1, 8)):
        shardings = state_shardings(make_mesh(data, fsdp, 8), shapes)
        sizes[fsdp] = bytes_per_device(shapes, shardings)
        with capsys.disabled():
            print(f"\n{data} x {fsdp}: {sizes[fsdp] / 1e6:.1f} MB of parameters per device", end="")
    assert sizes[1] == sum(4 * math.prod(x.shape) for x in jax.tree.leaves(shapes))
    assert sizes[4] / sizes[1] == pytest.approx(1 / 4, rel=0.01)
    assert sizes[8] / sizes[1] == pytest.approx(1 / 8, rel=0.01)
    # Compare with the bytes on a real device.
    small = BertConfig(500, 5, 128, 1, 4, 256)
    mesh = make_mesh(1, 8, 8)
    params = init_params(small, jax.random.key(0))
    shardings = state_shardings(mesh, params)
    placed = jax.device_put(params, shardings)
    held = sum(x.addressable_shards[3].data.nbytes for x in jax.tree.leaves(placed))
    assert held == bytes_per_device(params, shardings)
