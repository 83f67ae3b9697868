"""Tag texts with an ONNX export: the same as `Tagger`, with the logits of an ONNX runtime."""

import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from flax_ner.errors import UserError, error_summary, import_optional
from flax_ner.inference.forward import make_decoder
from flax_ner.inference.rows import BatchShapes, pack_batches
from flax_ner.inference.tagger import MAX_CPU_TOKENS, Forward, Tagger
from flax_ner.model.bert import BertConfig
from flax_ner.model.crf import make_chain
from flax_ner.model.decoding import Decoded, Decoder
from flax_ner.model.tagging_model import Params
from flax_ner.text.batches import token_indices
from flax_ner.text.labels import LabelSet
from flax_ner.text.tokenizer import Tokenizer
from flax_ner.weights.export_folder import ONNXRUNTIME_REQUIREMENT, find_onnx, read_export
from flax_ner.weights.model_dir import RESTORE_HINT
from flax_ner.weights.onnx_graph import ATTENTION_MASK, INPUT_IDS, LOGITS


def load_onnx(path: Path, compute_dtype: str | None, batch_size: int, source: str) -> "OnnxTagger":
    """Load an ONNX export.

    Args:
        path: the folder of the export.
        compute_dtype: see `tagger.load`; must be None.
        batch_size: see `Tagger`.
        source: see `Tagger`.

    Raises:
        UserError: a file is missing or damaged, onnxruntime is not installed, or `compute_dtype` is given.
    """
    if compute_dtype is not None:
        raise UserError(
            f"compute_dtype {compute_dtype!r}: does not apply to {path}, an ONNX export. Omit it, or choose "
            "the dtype with export --dtype."
        )
    model = read_export(path)
    if model.labels is None:
        raise UserError(f"{path}: labels.json is missing. {RESTORE_HINT}")
    return OnnxTagger(
        path, model.config, model.params, model.build_tokenizer(), model.labels, model.max_length,
        batch_size, source,
    )  # fmt: skip


class OnnxTagger(Tagger):
    """A tagger whose logits are computed by onnxruntime, on the CPU.

    Use `load` to create it. Each row of a batch holds one window, because the ONNX model cannot separate the
    windows of a packed row. Decoding is that of `Tagger`, on packed rows.

    A pickled tagger names its folder, which must exist where it is unpickled.

    Args:
        folder: folder of the export.
        config, tokenizer, labels, max_length, batch_size, source: see `Tagger`.
        params: parameters that decoding needs: {"head": {"transitions": ...}} for a CRF.

    Raises:
        UserError: the ONNX file is missing or damaged, onnxruntime is not installed, or an argument is invalid.
    """

    def __init__(
        self,
        folder: Path,
        config: BertConfig,
        params: Params,
        tokenizer: Tokenizer,
        labels: LabelSet,
        max_length: int,
        batch_size: int = 32,
        source: str = "",
    ):
        super().__init__(config, params, tokenizer, labels, max_length, batch_size, source=source)
        # The session runs on the CPU, whatever jax uses.
        self._shapes = BatchShapes(self.max_length, min(self._shapes.tokens, MAX_CPU_TOKENS), 1)
        self.folder = folder.resolve()
        self._file = find_onnx(self.folder)
        self._session = _open_session(self._file, len(labels))
        self._logits = self._compute_logits
        decoder = make_decoder(config, labels)
        self._predict, self._predict_proba = (
            jax.jit(partial(decode, decoder)) for decode in (_decode, _decode_proba)
        )

    def __reduce__(self) -> tuple[Any, ...]:
        """Return how to make this tagger again, for pickle and `copy`: the folder and settings."""
        settings = self.max_length, self.batch_size, self.source
        params = jax.device_get(self.params)
        return OnnxTagger, (
            self.folder, self.config, params, self.tokenizer, self.labels, *settings
        )  # fmt: skip

    def describe_runtime(self) -> str:
        size = self._file.stat().st_size / 1e6
        return f"{self._file.name}, {size:.1f} MB, onnxruntime on CPU"

    def compile(self) -> None:
        """Compile the decoder for every batch shape ahead of time, see `Tagger.compile`."""
        with self._explain_out_of_memory():
            outputs = []
            for shape in self._shapes.all():
                scores = np.zeros((*shape, len(self.labels)), np.float32)
                outputs.append(self._run(self._predict, scores, *np.zeros((3, *shape), np.int32)))
            jax.block_until_ready(outputs)

    def _run_windows(
        self, forward: Forward, ids: np.ndarray, first: np.ndarray, lengths: np.ndarray
    ) -> Iterator[tuple[np.ndarray, np.ndarray, Any]]:
        logits = self._token_logits(ids, lengths)
        for batch in pack_batches(ids, first, lengths, self._shapes):
            scores = np.zeros((batch.input_ids.size, logits.shape[1]), np.float32)
            scores[batch.target] = logits[batch.source]
            scores = scores.reshape(*batch.input_ids.shape, -1)  # [B, T, C]
            yield batch.source, batch.target, self._run(forward, scores, *batch[1:4])

    def _token_logits(self, ids: np.ndarray, lengths: np.ndarray) -> np.ndarray:
        """Return the logits of all tokens, float32 [M, C].

        Args:
            ids: int32 [M], token ids of all windows, concatenated.
            lengths: int [windows], number of tokens of each window.
        """
        logits = np.zeros((len(ids), len(self.labels)), np.float32)
        starts = np.cumsum(lengths) - lengths
        # Windows of similar length share a batch, so that there is little padding.
        order = np.argsort(-lengths, kind="stable")
        while len(order):
            width = int(lengths[order[0]])
            rows = max(self._shapes.tokens // width, 1)
            windows, order = order[:rows], order[rows:]
            source, target, _ = token_indices(
                starts[windows], lengths[windows], np.arange(len(windows)) * width
            )
            inputs = np.zeros((2, len(windows) * width), np.int64)
            inputs[0, target], inputs[1, target] = ids[source], 1
            output = self._run_session(*inputs.reshape(2, -1, width))
            logits[source] = output.reshape(-1, logits.shape[1])[target]
        return logits

    def _run_session(self, input_ids: np.ndarray, attention_mask: np.ndarray) -> np.ndarray:
        with self._explain_out_of_memory():
            inputs = {INPUT_IDS: input_ids, ATTENTION_MASK: attention_mask}
            outputs: np.ndarray = self._session.run([LOGITS], inputs)[0]
        return outputs

    def _compute_logits(self, params: Params, input_ids: np.ndarray, mask: np.ndarray) -> Array:
        return jnp.asarray(self._run_session(input_ids.astype(np.int64), mask.astype(np.int64)))


def _decode(decoder: Decoder, params: Params, logits: Array, *rows: Array) -> Decoded:
    """Return what `forward.predict` returns; `rows` are its arguments after `input_ids`."""
    segment_ids, positions, word_starts = rows
    chain = make_chain(segment_ids, positions, word_starts > 0)
    return decoder.decode(params["head"], logits, chain)


def _decode_proba(
    decoder: Decoder, params: Params, logits: Array, *rows: Array
) -> tuple[Array, Array]:
    """Return what `forward.predict_proba` returns; arguments as for `_decode`."""
    segment_ids, positions, word_starts = rows
    chain = make_chain(segment_ids, positions, word_starts > 0)
    inputs = params["head"], logits, chain
    return decoder.tag_probabilities(*inputs), decoder.decode(*inputs).tags


def _open_session(file: Path, tags: int) -> Any:
    """Return a session of onnxruntime for a model with this number of tags."""
    onnxruntime = import_optional(
        "onnxruntime", "tagging with an ONNX export", ONNXRUNTIME_REQUIREMENT
    )
    options = onnxruntime.SessionOptions()
    # By default one thread per core of the machine is bound to its core, also if this process may not use it.
    options.intra_op_num_threads = _available_cores()
    # Threads that have nothing to do sleep. Otherwise they take the cores from other threads and programs.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3  # errors only
    try:
        session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # the exceptions of onnxruntime have no class in common
        raise UserError(
            f"{file}: cannot be read ({error_summary(error)}). {RESTORE_HINT}"
        ) from error
    inputs = {value.name for value in session.get_inputs()}
    outputs = {value.name: value.shape[-1] for value in session.get_outputs()}
    if inputs != {INPUT_IDS, ATTENTION_MASK} or outputs.get(LOGITS) != tags:
        raise UserError(
            f"{file}: does not compute the scores of the {tags} tags in labels.json. Export the model again."
        )
    return session


def _available_cores() -> int:
    if hasattr(os, "sched_getaffinity"):  # only on Linux
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
