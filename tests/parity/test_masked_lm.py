"""The masked language modelling head against transformers. Needs transformers and PyTorch."""

import warnings
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flax_ner.model.mlm_head import apply_masked_lm
from flax_ner.weights.convert import convert
from flax_ner.weights.export import export
from flax_ner.weights.source import open_source

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

SHAPE = {
    "hidden_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 96,
    "max_position_embeddings": 32,
}


@pytest.mark.parametrize("hidden_act", ["gelu", "gelu_new"])
def test_logits_match_bert_for_masked_lm(hidden_act: str, tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # raised inside transformers and torch
        config = transformers.BertConfig(vocab_size=60, hidden_act=hidden_act, **SHAPE)
        model = transformers.BertForMaskedLM(config).eval()
        with torch.no_grad():
            for parameter in model.parameters():  # no tensor keeps its initial value
                parameter += 0.1 * torch.randn(
                    parameter.shape, generator=torch.Generator().manual_seed(parameter.numel())
                )
        model.save_pretrained(tmp_path)
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *map(chr, range(0x4E00, 0x4E00 + 55))]
    (tmp_path / "vocab.txt").write_text("\n".join(tokens) + "\n", "utf-8")
    ours, report = convert(open_source(tmp_path))
    assert not report.ignored and not report.notes
    params = {"encoder": ours.params["encoder"], "head": ours.params["masked_lm"]}
    random = np.random.default_rng(0)
    ids = random.integers(0, 60, (3, 20))
    mask = (np.arange(20) < np.array([[20], [11], [5]])).astype(np.int64)
    with torch.no_grad():
        expected = model(torch.tensor(ids), torch.tensor(mask)).logits.numpy()
    masked_indices = np.stack([random.permutation(size)[:5] for size in (20, 11, 5)])
    for scored_ids in (np.arange(60), np.array([2, 7, 8, 41, 59])):
        actual = apply_masked_lm(
            ours.config,
            jax.tree.map(jnp.asarray, params),
            jnp.asarray(ids),
            jnp.asarray(mask),
            jnp.broadcast_to(jnp.arange(20), (3, 20)),
            jnp.asarray(masked_indices),
            jnp.asarray(scored_ids),
        )
        selected = np.take_along_axis(expected, masked_indices[..., None], 1)[..., scored_ids]
        np.testing.assert_allclose(actual, selected, rtol=0, atol=1e-4)

    export(ours, tmp_path / "back", "hf")
    back, info = transformers.AutoModelForMaskedLM.from_pretrained(
        tmp_path / "back", output_loading_info=True
    )
    assert type(back).__name__ == "BertForMaskedLM" and not any(info.values()), info
    for name, tensor in model.state_dict().items():
        assert torch.equal(back.state_dict()[name], tensor), name
