"""The tokenizer and the windows of examples/browser equal those of the package."""

import json
import random
import shutil
import subprocess
from pathlib import Path

import pytest

from flax_ner.inference.windows import split_into_windows
from flax_ner.text.tokenizer_kinds import build_tokenizer
from flax_ner.text.vocab import SPECIAL_TOKENS

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "browser"
SIZES = (3, 8, 17)  # tokens per window
# U+0307 is the second character of a lower-cased "İ".
LETTERS = [*"abeio中国王。！？《》”12.$", "é", "α", "i\u0307", "\u0307", "\U00020000", "\ufffd"]
VOCAB = [*SPECIAL_TOKENS, *LETTERS, *(f"##{c}" for c in "abeioéα"), "abe", "##oi", " "]
ALPHABET = [
    *"aabbeeiiooABEO  中国王。！？《》”12.$xé",
    *"\n\r\t\0\u2028\u2029\x0b\u3000",
    *"αΑΣİÉ\u0301\u0307\u0903각\uf900\U00020000\U0002b820😀\u200b\u200d\ufffd\ud83d\ue000≠",
]
# Reads {"modules", "kind", "lowerCase", "vocabulary", "texts", "sizes"}, and prints the tokens and windows.
SCRIPT = """
import { readFileSync } from "node:fs";
const input = JSON.parse(readFileSync(0, "utf-8"));
const { makeTokenizer } = await import(`${input.modules}/tokenizer.js`);
const { splitIntoWindows } = await import(`${input.modules}/windows.js`);
const tokenize = makeTokenizer(input.kind, input.lowerCase, input.vocabulary);
const results = input.texts.map((text) => {
  const tokens = tokenize(Array.from(text.toWellFormed()));
  const windows = input.sizes.map((size) => splitIntoWindows(Array.from(text), tokens, size));
  return [tokens.map(Object.values), windows.map((each) => each.map(Object.values))];
});
console.log(JSON.stringify(results));
"""


@pytest.mark.parametrize("lower_case", [True, False])
@pytest.mark.parametrize("kind", ["char", "wordpiece"])
def test_tokens_and_windows_equal_those_of_the_package(kind: str, lower_case: bool) -> None:
    node = shutil.which("node")
    if node is None:
        pytest.skip("no node on PATH")
    draw = random.Random(0)
    texts = ["".join(draw.choices(ALPHABET, k=draw.randrange(60))) for _ in range(500)]
    texts += ["", "a" * 100, "a" * 101, "中" * 50, "国\n" * 9]
    request = {
        "modules": EXAMPLE.as_uri(), "kind": kind, "lowerCase": lower_case, "vocabulary": VOCAB,
        "texts": texts, "sizes": SIZES,
    }  # fmt: skip
    command = [node, "--input-type=module", "--eval", SCRIPT]
    output = subprocess.run(command, input=json.dumps(request).encode(), capture_output=True)
    assert output.returncode == 0, output.stderr.decode()

    tokenizer = build_tokenizer(kind, VOCAB, lower_case)
    for text, (tokens, windows) in zip(texts, json.loads(output.stdout), strict=True):
        expected = tokenizer.tokenize([text])
        columns = (expected.ids, expected.first, expected.start, expected.end)
        rows = zip(*(column.tolist() for column in columns), strict=True)
        assert tokens == [list(row) for row in rows]
        for size, found in zip(SIZES, windows, strict=True):
            columns = split_into_windows([text], expected, size)[1:5]
            rows = zip(*(column.tolist() for column in columns), strict=True)
            assert found == [list(row) for row in rows if row[0] < row[1]]
