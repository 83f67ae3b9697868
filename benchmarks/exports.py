"""Compare the predictions of ONNX exports with those of the model: logits, entities and F1.

    python benchmarks/exports.py MODEL DATA
    python benchmarks/exports.py base data/cluener/dev.json --vocab vocab.txt

MODEL is a model directory, or the shape of an untrained model: small (4 layers x 256), narrow (12 x 384) or
base (12 x 768). Printed per dtype are the largest difference of a logit from the model with JAX in float32, the
number of texts with other entities, and the strict F1 (untrained models have none). Logits are those of padded
rows, entities those of the tagger's own batches. int8 depends on the batch. Needs onnx and onnxruntime.
"""

import argparse
import json
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from common import SHAPES, load_or_make, machine

from flax_ner import Tagger, load
from flax_ner.compilation import keep_compiled_programs
from flax_ner.data.formats import read_examples
from flax_ner.evaluation.metrics import score
from flax_ner.text.encoding import encode_examples
from flax_ner.text.examples import Entity, Example, gold_entities
from flax_ner.weights.export_folder import ONNX_FILES
from flax_ner.weights.model_dir import save_model
from flax_ner.weights.onnx_export import export_onnx

ROWS = 16  # texts per call of `Tagger.logits`


def compute_logits(tagger: Tagger, examples: Sequence[Example]) -> Iterator[np.ndarray]:
    """Yield the logits of the tokens of each text, float32 [T, C]."""
    tokens = encode_examples(examples, tagger.tokenizer, tagger.labels, tagger.max_length)
    sequences = np.split(tokens.ids, np.cumsum(tokens.lengths)[:-1])
    for first in range(0, len(sequences), ROWS):
        rows = sequences[first : first + ROWS]
        ids = np.zeros((len(rows), tagger.max_length), np.int32)
        mask = np.zeros_like(ids)
        for i, row in enumerate(rows):
            ids[i, : len(row)], mask[i, : len(row)] = row, 1
        logits = np.asarray(tagger.logits(ids, mask))  # [B, T, C]
        yield from (logits[i, : len(row)] for i, row in enumerate(rows))


def without_scores(entities: Sequence[Entity]) -> list[tuple[str, int, int]]:
    """Return the entities without their scores, which differ by rounding."""
    return [(entity.type, entity.start, entity.end) for entity in entities]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", help=f"model directory, or one of {', '.join(SHAPES)}")
    parser.add_argument("data", help="labelled data")
    parser.add_argument("--vocab", type=Path, help="vocab.txt, for an untrained model")
    parser.add_argument("--texts", type=int, help="use only the first N texts")
    options = parser.parse_args()
    trained = options.model not in SHAPES
    keep_compiled_programs()
    model = load_or_make(options.model, options.vocab)
    examples = read_examples(options.data, "auto")[: options.texts]
    texts, gold = [example.text for example in examples], gold_entities(examples)
    print("| way | maximum logit difference | texts with other entities | strict F1 |")
    print("| --- | --- | --- | --- |")
    rows = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        save_model(folder / "jax", model)
        for way in ("jax", *ONNX_FILES):
            if way != "jax":
                export_onnx(model, folder / way, way)
            tagger = load(folder / way, "float32" if way == "jax" else None)
            entities = tagger(texts)
            logits = list(compute_logits(tagger, examples))
            if way == "jax":
                expected, expected_logits = entities, logits
                largest = max(float(np.abs(each).max()) for each in logits)
            difference = max(
                float(np.abs(one - other).max())
                for one, other in zip(logits, expected_logits, strict=True)
            )
            others = sum(
                without_scores(one) != without_scores(other)
                for one, other in zip(entities, expected, strict=True)
            )
            f1 = round(score(gold, entities).f1, 4) if trained else None
            label = "JAX, float32" if way == "jax" else f"ONNX, {way}"
            print(
                f"| {label} | {difference:.1e} | {others} of {len(texts):,} | {f1 if trained else ''} |",
                flush=True,
            )
            rows[label] = {"difference": difference, "other_texts": others, "f1": f1}
    print(f"\nThe largest logit with JAX is {largest:.1f}.")
    record = {
        "model": Path(options.model).name,
        "texts": len(texts),
        "largest_logit": largest,
        "ways": rows,
    }
    print(f"\n`{json.dumps(record | machine('jax', 'flax', 'onnxruntime'))}`")


if __name__ == "__main__":
    main()
