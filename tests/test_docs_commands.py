"""All code blocks of README.md and docs/ run as written and in order.

Settings that are appended to the training commands make the models small. `make_files` writes the files that a
page expects. `NOT_RUN` lists the commands that are not run, with the reason.
"""

import contextlib
import io
import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import jax
import pytest

from convert import flax_to_torch, torch_to_flax
from flax_ner.cli.main import main
from flax_ner.data.cluener import CATEGORIES, write_cluener
from flax_ner.data.formats import write_examples
from flax_ner.data.synthetic import synthetic
from flax_ner.model.bert import BertConfig
from flax_ner.model.tagging_model import init_params
from flax_ner.text.labels import LabelSet
from flax_ner.text.vocab import build_vocab
from flax_ner.weights.export import export
from flax_ner.weights.model_dir import ModelDir, save_model
from tests.commands import TINY, run_train
from tests.subwords import unigram_tokenizer
from tests.weights.hub_server import HubServer

ROOT = Path(__file__).resolve().parents[1]
# tests/test_docs.py checks that the Chinese pages have the same blocks.
PAGES = [
    ROOT / "README.md",
    *(page for page in sorted((ROOT / "docs").glob("*.md")) if not page.name.endswith(".zh.md")),
]
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LANGUAGES = {"bash", "python", "text", "json", "yaml", "dockerfile", "ini"}
# Pages whose commands need a cluster or a long time.
CLUSTERS = ("scaling.md", "scaling_costs.md", "tpu.md", "slurm.md", "gke.md")
# Start of a command -> why it is not run.
NOT_RUN = {
    "make demo": "installs packages; CI runs these targets",
    "pip install": "installs packages",
    "docker build": "needs a registry; see tests/end_to_end/test_install.py",
    "python -m flax_ner data download": "needs the internet; see tests/cli/test_download_command.py",
    "python -m flax_ner web": "serves until Ctrl-C; see tests/serving/test_web.py",
    "python -m flax_ner bulk": "needs Ray and a cluster; see tests/serving/test_bulk_workers.py",
    "import ray": "starts a cluster; see tests/test_pipelines.py",
    "from transformers import pipeline": "needs transformers; see tests/parity/test_transformers.py",
}
# Page -> packages and programs that it needs besides those of the tests.
NEEDS = {
    "README.md": ("onnx", "starlette", "uvicorn", "prometheus_client"),
    "deploy.md": ("onnx", "onnxruntime"),
    "onnx.md": ("onnx", "onnxruntime"),
    "pipelines.md": ("pandas", "spacy"),
    "server.md": ("starlette", "uvicorn", "prometheus_client"),
}
RUN = [page for page in PAGES if page.name not in CLUSTERS]
# One device, because the rows per step need not be divisible by the eight devices of the tests.
SMALL = (*TINY, "--config.mesh.data=1")


class Block(NamedTuple):
    language: str
    code: str
    line: int


def blocks(page: Path) -> list[Block]:
    text = page.read_text("utf-8")
    return [Block(m[1], m[2], text.count("\n", 0, m.start()) + 1) for m in BLOCK.finditer(text)]


def statements(code: str) -> list[str]:
    """Split a block into commands: each Python command by itself, the shell lines between them together."""
    commands, lines = [], iter(code.replace("\\\n", " ").splitlines())
    for line in lines:
        if heredoc := re.search(r"<<'(\w+)'", line):
            line = "\n".join([line, *iter(lambda: next(lines), heredoc[1]), heredoc[1]])
        if commands and not is_python(line) and not is_python(commands[-1]):
            line = f"{commands.pop()}\n{line}"
        commands.append(line)
    return commands


def is_python(line: str) -> bool:
    """Return whether a line runs Python and needs no shell."""
    words = shlex.shlex(line, posix=True, punctuation_chars="|>&;<")
    words.whitespace_split = True
    return line.startswith("python ") and not {"|", ">", "&", ";", "<", "&&"} & {*words}


def encoder(positions: int) -> ModelDir:
    """Make an encoder without a head, with the shape of TINY."""
    model = tagger(LabelSet(CATEGORIES), positions)
    del model.params["head"]
    model.labels = None
    return model


def tagger(
    labels: LabelSet, positions: int = 128, act: str = "gelu", head: str = "softmax"
) -> ModelDir:
    vocab = [*build_vocab(example.text for example in synthetic("train", 60))]
    config = BertConfig(
        vocab_size=len(vocab), num_labels=len(labels), hidden_size=64, num_hidden_layers=1,
        num_attention_heads=1, intermediate_size=16, max_position_embeddings=positions, hidden_act=act,
        head=head,
    )  # fmt: skip
    return ModelDir(config, labels, vocab, 64, init_params(config, jax.random.key(0)), True)


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HubServer]:
    folder = tmp_path_factory.mktemp("hub") / "bert"
    export(encoder(512), folder, "hf")
    names = ("google-bert/bert-base-chinese", "google-bert/bert-base-cased")
    tokenizer = unigram_tokenizer()  # like that of XLM-R
    subwords = encoder(512)
    embeddings = subwords.params["encoder"]["embeddings"]
    embeddings["word"] = embeddings["word"][: len(tokenizer.tokens)]
    subwords.config = replace(subwords.config, vocab_size=len(tokenizer.tokens))
    subwords.vocab, subwords.lower_case = tokenizer.tokens, False
    subwords.tokenizer, subwords.definition = tokenizer.kind, tokenizer.definition
    export(subwords, folder.with_name("e5"), "hf")
    repositories = dict.fromkeys(names, folder)
    repositories["intfloat/multilingual-e5-small"] = folder.with_name("e5")
    with HubServer(repositories) as server:
        yield server


def make_files(page: str) -> None:
    """Write the files that a page expects. Pages in docs/ also expect the models trained in the README."""
    for name in ("configs", "convert", "train.py"):
        Path(name).symlink_to(ROOT / name)
    train, dev = synthetic("train", 40), synthetic("dev", 20)
    texts = "".join(f"{example.text}\n" for example in train)
    if page == "your_data.md":  # writes its own files
        return
    for folder in ("data/cluener", "mine", "conll", "weights", "work_dirs/mine", "documents"):
        Path(folder).mkdir(parents=True)
    Path("documents/1.txt").write_text(texts, "utf-8")
    for name, examples in (("train", train), ("dev", dev)):
        write_cluener(Path(f"data/cluener/{name}.json"), examples)
        write_cluener(Path(f"mine/{name}.json"), examples)
        write_examples(f"mine/{name}.jsonl", examples, "doccano")
        write_examples(f"conll/{'valid' if name == 'dev' else name}.txt", examples, "conll")
    for name in ("anna", "ben"):
        write_examples(f"mine/{name}.jsonl", train, "doccano")
    rows = [json.dumps({"id": i, "text": e.text, "body": e.text}) for i, e in enumerate(dev)]
    for path in ("data/cluener/test.json", "rows.jsonl"):
        Path(path).write_text("\n".join(rows), "utf-8")
    write_examples("export.json", train, "label_studio")
    for name in ("text", "dev", "field", "field_dev", "texts", "novel"):
        Path(f"{name}.txt").write_text(texts, "utf-8")
    mmocr = tagger(LabelSet.mmocr(CATEGORIES), 512, "gelu_new")
    for path in ("bert_softmax_cluener.pth", "work_dirs/mine/epoch_18.pth"):
        export(mmocr, path, "mmocr")
    for path in ("vocab.txt", "weights/vocab.txt"):
        Path(path).write_text("".join(f"{token}\n" for token in mmocr.vocab), "utf-8")
    export(encoder(512), "weights/bert_pretrain.pth", "mmocr")
    Path("categories.txt").write_text("\n".join(CATEGORIES), "utf-8")
    export(tagger(LabelSet(CATEGORIES)), "my-ner", "hf")
    Path("tags.txt").write_text("\n".join(LabelSet(CATEGORIES).names), "utf-8")
    if page != "README.md":
        save_model("runs/demo/best", tagger(LabelSet(CATEGORIES, "bioes")))
        save_model("runs/cluener_scratch/best", tagger(LabelSet(CATEGORIES, "bioes")))
        save_model("runs/crf/best", tagger(LabelSet(CATEGORIES, "bioes"), head="crf"))


def python_variables() -> dict[str, str]:
    """Return variables with which `python` is this one, with this package."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return {"PATH": path, "PYTHONPATH": str(ROOT)}


@contextlib.contextmanager
def serving(statement: str) -> Iterator[None]:
    """Run a command that serves, from its ready line on, and stop it as documented."""
    command = ["bash", "-c", f"exec env {statement}"]
    environment = os.environ | python_variables()
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment) as process:
        try:
            assert process.stderr
            assert any(
                "is ready" in line for line in process.stderr
            )  # False if the process has ended
            yield
        finally:
            process.terminate()
        assert process.wait(60) == 0


def run_statement(statement: str, server: HubServer) -> None:
    words = shlex.split(statement, comments=True)
    from_hub = any(owner in statement for owner in ("google-bert/", "intfloat/"))
    if not is_python(statement) or from_hub:
        # In a subprocess, because huggingface_hub reads the address of the hub when it is imported.
        more = shlex.join(SMALL) if from_hub else ""
        environment = server.environment(Path("hub").absolute()) | python_variables()
        subprocess.run(
            ["bash", "-euo", "pipefail", "-c", f"{statement} {more}"], check=True, env=environment
        )
    elif words[1] == "train.py":
        run_train(words[2:], *SMALL)
    elif words[1:4] == ["-m", "flax_ner", "train"]:
        run_train(words[4:], *SMALL)
    elif words[1:3] == ["-m", "flax_ner"]:
        main(words[3:])
    else:
        {"convert/torch_to_flax.py": torch_to_flax, "convert/flax_to_torch.py": flax_to_torch}[
            words[1]
        ].main(words[2:])


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:bert_softmax_cluener.pth")  # warns about defaults
@pytest.mark.parametrize("page", RUN, ids=lambda page: page.name)
def test_blocks_run_as_written(
    page: Path, hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for package in NEEDS.get(page.name, ()):
        pytest.importorskip(package)
    make_files(page.name)
    with contextlib.ExitStack() as servers:
        run_blocks(page, hub, servers)


def run_blocks(page: Path, hub: HubServer, servers: contextlib.ExitStack) -> None:
    """Run the blocks of a page. A server runs until the next one is started."""
    on_page = blocks(page)
    for block, after in zip(on_page, [*on_page, None][1:], strict=True):
        print(f"{page.name}:{block.line}", file=sys.stderr)
        if block.language == "bash":
            for statement in statements(block.code):
                if statement.startswith(tuple(NOT_RUN)):
                    continue
                if " serve " in statement:
                    servers.close()
                    servers.enter_context(serving(statement))
                else:
                    run_statement(statement, hub)
        elif block.language == "python" and not block.code.startswith(tuple(NOT_RUN)):
            output = io.StringIO()
            with contextlib.redirect_stdout(output):
                exec(compile(block.code, f"{page.name}:{block.line}", "exec"), {})
            # A text block after it shows its output. Output that depends on a model is not compared.
            if after and after.language == "text" and "load(" not in block.code:
                assert output.getvalue() == after.code


def test_blocks_have_a_language_and_not_run_has_no_unused_entry() -> None:
    unused = set(NOT_RUN)
    for page in PAGES:
        for block in blocks(page):
            assert block.language in LANGUAGES, f"{page.name}:{block.line}"
            starts = statements(block.code) if block.language == "bash" else [block.code]
            unused -= {name for name in unused if any(start.startswith(name) for start in starts)}
        assert page.read_text("utf-8").count("```") == 2 * len(blocks(page)), page.name
    assert not unused
