"""Tag texts in one way, as a process of benchmarks/deployment.py.

    python benchmarks/deployment_worker.py WAY FOLDER [ARGUMENT]

Reads a JSON list of texts per line from standard input. Prints a JSON row per line: entities, wall seconds,
processor seconds, peak memory. The first row says that the model is loaded.
"""

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

Entities = list[list[tuple[str, int, int]]]
Tag = Callable[[list[str]], Entities]
BATCH = 16  # texts per call of onnxruntime
PIPELINE_BATCH = 32


def flax_ner(folder: str, dtype: str = "") -> Tag:
    """Tag with flax_ner, from a model directory or an ONNX export."""
    from flax_ner import load

    tagger = load(folder, compute_dtype=dtype or None)
    tagger.compile()
    return lambda texts: [
        [(e.type, e.start, e.end) for e in row] for row in tagger(texts, "lenient")
    ]


def pipeline(folder: str, dtype: str = "float32") -> Tag:
    """Tag with the pipeline of transformers, called as in its documentation."""
    import torch
    import transformers

    transformers.utils.logging.set_verbosity_error()
    pipe = transformers.pipeline(
        "token-classification",
        folder,
        aggregation_strategy="simple",
        dtype=getattr(torch, dtype),
        device="cpu",
    )
    return lambda texts: _read(pipe(texts, batch_size=PIPELINE_BATCH))


def optimum(folder: str) -> Tag:
    """Tag with the pipeline of Optimum on our ONNX export."""
    from optimum.onnxruntime import ORTModelForTokenClassification
    from optimum.onnxruntime import pipeline as optimum_pipeline
    from transformers import AutoTokenizer

    model = ORTModelForTokenClassification.from_pretrained(folder)
    pipe = optimum_pipeline(
        "token-classification",
        model=model,
        tokenizer=AutoTokenizer.from_pretrained(folder),
        aggregation_strategy="simple",
    )
    return lambda texts: _read(pipe(texts, batch_size=PIPELINE_BATCH))


def onnxruntime(folder: str, file: str) -> Tag:
    """Tag with onnxruntime and tokenizers: texts sorted by length, 16 per call, B- and I- tags grouped."""
    import numpy as np
    import onnxruntime as ort
    from tokenizers import Tokenizer

    with open(f"{folder}/config.json", encoding="utf-8") as config:
        names = {int(i): name for i, name in json.load(config)["id2label"].items()}
    tokenizer = Tokenizer.from_file(f"{folder}/tokenizer.json")
    tokenizer.no_truncation()
    session = ort.InferenceSession(f"{folder}/{file}", providers=["CPUExecutionProvider"])
    given = {value.name for value in session.get_inputs()}

    def tag(texts: list[str]) -> Entities:
        encodings = tokenizer.encode_batch(texts)
        rows: Entities = [[] for _ in texts]
        order = sorted(range(len(texts)), key=lambda i: len(encodings[i].ids))
        for first in range(0, len(order), BATCH):
            batch = [encodings[i] for i in order[first : first + BATCH]]
            width = max(len(encoding.ids) for encoding in batch)
            ids = np.zeros((len(batch), width), np.int64)
            mask = np.zeros_like(ids)
            for row, encoding in enumerate(batch):
                ids[row, : len(encoding.ids)] = encoding.ids
                mask[row, : len(encoding.ids)] = 1
            inputs = {
                "input_ids": ids,
                "attention_mask": mask,
                "token_type_ids": np.zeros_like(ids),
            }
            (logits,) = session.run(None, {k: v for k, v in inputs.items() if k in given})
            for i, encoding, best in zip(
                order[first : first + BATCH], batch, logits.argmax(-1), strict=True
            ):
                tags = [names[tag] for tag in best[: len(encoding.ids)]]
                rows[i] = _group(tags[1:-1], encoding.offsets[1:-1])
        return rows

    return tag


def _group(tags: list[str], offsets: list[tuple[int, int]]) -> Entities:
    entities: list[Any] = []
    previous = "O"
    for tag, (start, end) in zip(tags, offsets, strict=True):
        kind = tag[2:]
        if tag.startswith("I-") and previous[2:] == kind:
            entities[-1][2] = end
        elif tag != "O":
            entities.append([kind, start, end])
        previous = tag
    return [tuple(entity) for entity in entities]


def _read(rows: Any) -> Entities:
    return [[(e["entity_group"], e["start"], e["end"]) for e in row] for row in rows]


def _peak_mib() -> float:
    """Return the peak memory of this program. That of `resource` includes the program that started it."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


WAYS: dict[str, Callable[..., Tag]] = {
    f.__name__: f for f in (flax_ner, pipeline, optimum, onnxruntime)
}


def main() -> None:
    way, *arguments = sys.argv[1:]
    out, sys.stdout = sys.stdout, sys.stderr  # the libraries may print
    tag = WAYS[way](*arguments)
    print(json.dumps("loaded"), file=out, flush=True)
    for line in sys.stdin:
        texts = json.loads(line)
        begin, cpu = time.perf_counter(), time.process_time()
        entities = tag(texts)
        row = {
            "entities": entities,
            "seconds": time.perf_counter() - begin,
            "cpu_seconds": time.process_time() - cpu,
            "peak_mib": _peak_mib(),
        }
        print(json.dumps(row), file=out, flush=True)


if __name__ == "__main__":
    main()
