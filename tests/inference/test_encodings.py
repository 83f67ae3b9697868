"""Every reader rejects text that is not UTF-8, with the command that converts it."""

import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from flax_ner.data.corpus import read_documents
from flax_ner.data.formats import read_examples, read_texts
from flax_ner.data.json_rows import read_rows
from flax_ner.errors import UserError
from flax_ner.text.vocab import read_vocab
from flax_ner.weights.head_labels import read_labels

needs_iconv = pytest.mark.skipif(shutil.which("iconv") is None, reason="iconv is not installed")

SENTENCE = "浙商银行企业信贷部叶老桂博士"


def encoder(encoding: str) -> Callable[[str], bytes]:
    return lambda text: text.encode(encoding)


ENCODINGS = {
    "GB18030": encoder("gb18030"),
    "UTF-16": encoder("utf-16"),
    "UTF-16LE": encoder("utf-16-le"),
    "UTF-16BE": encoder("utf-16-be"),
    "UTF-32": encoder("utf-32"),
}
READERS: dict[str, tuple[str, str, Callable[[Path], object]]] = {
    "columns": (
        "a.conll",
        "".join(f"{c} O\n" for c in SENTENCE),
        lambda p: read_examples(str(p), "auto"),
    ),
    "JSON": ("a.json", f'{{"text": "{SENTENCE}"}}\n', lambda p: read_examples(str(p), "auto")),
    "array": ("a.json", f'[{{"text": "{SENTENCE}"}}]', lambda p: read_examples(str(p), "doccano")),
    "brat": ("a.txt", f"{SENTENCE}\n", lambda p: read_examples(str(p), "brat")),
    "distillation": ("a.txt", f"{SENTENCE}\n", lambda p: read_texts(str(p))),
    "pre-training": ("a.txt", f"{SENTENCE}\n", lambda p: list(read_documents(p))),
    "bulk": ("a.jsonl", f'{{"text": "{SENTENCE}"}}\n', lambda p: list(read_rows(p))),
    "vocabulary": ("vocab.txt", "\n".join(SENTENCE), read_vocab),
    "labels": ("labels.txt", f"{SENTENCE}\n", lambda p: read_labels(p).names),
    "labels.json": (
        "labels.json",
        f'{{"scheme": "bio", "categories": ["{SENTENCE}"]}}',
        lambda p: read_labels(p).names,
    ),
}


def follow(message: str, path: Path) -> Path:
    """Run the command at the end of a message and return the file it creates."""
    command = re.search(r": ((?:xz|gzip|iconv) .*)$", message)
    assert command, message
    subprocess.run(command[1], shell=True, check=True)
    (made,) = (file for file in path.parent.iterdir() if ".utf8" in file.name)
    return made


@needs_iconv
@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("reader", READERS)
def test_every_reader_reports_the_encoding_and_the_conversion_command(
    tmp_path: Path, reader: str, encoding: str
) -> None:
    name, text, read = READERS[reader]
    folder = tmp_path / "a 'folder'"
    folder.mkdir()
    path = folder / name
    path.write_bytes(ENCODINGS[encoding](text))
    with pytest.raises(
        UserError, match=rf"(is|looks like) {encoding}\. Save .* UTF-8: iconv"
    ) as error:
        read(path)
    made = follow(str(error.value), path)
    assert made.suffix == path.suffix
    path.write_text(text, "utf-8")
    own_path = re.compile(re.escape(str(path)))
    assert own_path.sub("", repr(read(path))) == repr(read(made)).replace(str(made), "")


@needs_iconv
@pytest.mark.parametrize("pack", ["xz", "gzip"])
def test_a_compressed_text_is_unpacked_and_converted_by_one_command(
    tmp_path: Path, pack: str
) -> None:
    if shutil.which(pack) is None:
        pytest.skip(f"{pack} is not installed")
    path = tmp_path / "a.txt"
    path.write_bytes(f"{SENTENCE}\n".encode("gb18030"))
    subprocess.run([pack, path], check=True)
    (packed,) = tmp_path.iterdir()
    with pytest.raises(UserError, match=r":1: not UTF-8 .* It looks like GB18030") as error:
        list(read_documents(packed))
    assert list(read_documents(follow(str(error.value), packed))) == [[SENTENCE]]


@needs_iconv
@pytest.mark.parametrize("encoding", ENCODINGS)
def test_predict_rejects_other_encodings_on_standard_input_like_in_a_file(
    predict: Callable[..., tuple[str, str]], tmp_path: Path, encoding: str
) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(ENCODINGS[encoding](f"{SENTENCE}\n{SENTENCE}b\n"))
    with pytest.raises(SystemExit, match=rf"a\.txt.*(is|looks like) {encoding}\.") as in_file:
        predict(path)
    with pytest.raises(SystemExit, match=r"standard input") as piped:
        predict("-", stdin=path.read_bytes())
    message = str(in_file.value).replace(str(path), "standard input").partition(": iconv")[0]
    assert str(piped.value).partition(": iconv")[0] == message
    command, _, rest = str(piped.value).partition("UTF-8: ")[2].partition(" | ")
    assert rest == "python -m flax_ner predict ..."
    converted = subprocess.run(
        command, shell=True, check=True, input=path.read_bytes(), capture_output=True
    )
    expected = f"{SENTENCE}\n{SENTENCE}[b name]\n"
    assert predict("-", stdin=converted.stdout)[0] == expected
    assert predict(follow(str(in_file.value), path))[0] == expected


def test_a_stray_byte_is_not_reported_as_another_encoding(
    predict: Callable[..., tuple[str, str]], tmp_path: Path
) -> None:
    path = tmp_path / "a.txt"
    line = f"{SENTENCE}\n".encode()
    for broken in (b"\xff\n", "甲".encode()[:2] + b"\n", "一个".encode("gb18030") + b"\n"):
        path.write_bytes(line + broken + line)
        with pytest.raises(
            SystemExit, match=r"a\.txt:2: not UTF-8 \(.*\)\. Save the file as UTF-8\.$"
        ):
            predict(path)
    with pytest.raises(SystemExit, match="standard input:2: not UTF-8"):
        predict("-", stdin=line + b"\xff\n")
    with pytest.raises(SystemExit, match="standard input: is compressed by gzip"):
        predict("-", stdin=b"\x1f\x8b\x08")
