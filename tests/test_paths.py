"""Every command accepts relative paths, symbolic links, spaces, Chinese and percent signs in paths."""

import json
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from configs import demo
from convert.flax_to_torch import main as flax_to_torch
from convert.torch_to_flax import main as torch_to_flax
from flax_ner import load
from flax_ner.cli.main import main
from flax_ner.cli.train_command import main as train
from flax_ner.cli.train_command import parse
from flax_ner.data.formats import read_examples
from flax_ner.errors import UserError
from flax_ner.fit import fit
from flax_ner.serving import bulk
from flax_ner.training.checkpoint import Checkpoints
from flax_ner.weights.model_dir import (
    ModelDir,
    load_model,
    read_metadata,
    save_model,
)
from flax_ner.weights.open_model import open_model
from flax_ner.weights.params_reader import stored_arrays
from tests.inference.helpers import LABELS, VOCAB, hand_made_tagger
from tests.weights.helpers import assert_same, tagger_state_dict, tiny_config, write_source

ROOT = Path(__file__).resolve().parents[1]
RUN = ROOT / "tests" / "training" / "fixtures" / "run_format_0"
# A folder as a user may write it -> its resolved path, both relative to the current directory. `link` is a
# symbolic link to "target/linked", so `link/..` is "target".
PATHS = {
    "plain": "plain",
    "./plain/../dots": "dots",
    "../here/up": "up",
    "link": "target/linked",
    "link/../beside": "target/beside",
    "模型": "模型",
    "with space": "with space",
    "%20": "%20",
    "%2e%2e": "%2e%2e",
    "link/../模型 %2e%2e/%20/../é": "target/模型 %2e%2e/é",
}
HARDEST_PATH = [*PATHS][-1]  # combines all cases


def model() -> ModelDir:
    tagger = hand_made_tagger()
    return ModelDir(tagger.config, LABELS, VOCAB, 64, tagger.params)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Change to a directory that contains the folders and links of `PATHS`."""
    folder = tmp_path / "here"
    for name in ("plain", "target/linked", "target/模型 %2e%2e/%20"):
        (folder / name).mkdir(parents=True)
    (folder / "link").symlink_to("target/linked")
    monkeypatch.chdir(folder)
    return folder


@pytest.mark.parametrize("folder", PATHS)
def test_models_and_checkpoints_are_written_and_read_at_any_path(here: Path, folder: str) -> None:
    save_model(f"{folder}/model", model())
    save_model(f"{folder}/model", model())  # replaces it
    own = here / PATHS[folder]
    assert [path.name for path in own.iterdir()] == ["model"]
    for path in (f"{folder}/model", own / "model"):
        assert_same(load_model(path).params, model().params)
        assert read_metadata(path).vocab == VOCAB
        stored = {name.partition(".")[0] for name in stored_arrays(Path(path) / "params")}
        assert stored == model().params.keys()
    with Checkpoints(f"{folder}/checkpoints", keep=1) as checkpoints:
        checkpoints.save(3, {"step": model().params["head"]["classifier"]["bias"]})
    assert (own / "checkpoints" / "3").is_dir()


def test_saving_to_a_link_replaces_the_model_and_keeps_the_link(here: Path) -> None:
    save_model("first", model())
    Path("latest").symlink_to("first")
    shorter = model()
    shorter.max_length = 5
    save_model("latest", shorter)
    assert os.readlink("latest") == "first" and not Path("first").is_symlink()
    assert load_model("first").max_length == load_model("latest").max_length == 5
    Path("next").symlink_to("second")  # which does not exist yet
    save_model("next", model())
    assert load_model("second").max_length == 64 and Path("next").is_symlink()
    flax_to_torch(["first", "second.pth", "--layout", "hf"])
    Path("third").symlink_to("exported")
    flax_to_torch(["first", "third", "--layout", "hf"])
    assert Path("third").is_symlink() and Path("exported/model.safetensors").is_file()


@pytest.mark.parametrize("name", ["run[1]", "a*", "what?"])
def test_a_path_that_orbax_reads_as_a_glob_pattern_can_be_read_but_not_written(
    here: Path, name: str
) -> None:
    save_model("model", model())
    shutil.copytree("model", f"{name}/model")
    assert_same(load_model(f"{name}/model").params, model().params)
    main(["inspect", f"{name}/model"])
    for write in (
        lambda: save_model(f"{name}/other", model()),
        lambda: Checkpoints(f"{name}/checkpoints", keep=1),
        lambda: fit(demo.get_config(), f"{name}/run"),
        lambda: main(["ensemble", f"{name}/both", "model", f"{name}/model"]),
    ):
        with pytest.raises((UserError, SystemExit), match=r"cannot be written to a path with \["):
            write()
    assert [path.name for path in Path(name).iterdir()] == ["model"]


@pytest.fixture
def in_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Run bulk jobs without Ray, with one worker in this process."""

    def run_workers(
        todo: list[Path], folder: Path, job: dict[str, str | None], *_: object
    ) -> Iterator:
        worker = bulk._Worker(job, 0)
        for shard in todo:
            answer = worker({"source": [str(shard)], "target": [str(folder / shard.name)]})
            yield {name: value for name, (value,) in answer.items()}

    monkeypatch.setattr(bulk, "_run_workers", run_workers)


@pytest.mark.slow
@pytest.mark.every_python
@pytest.mark.usefixtures("in_process")
def test_every_command_accepts_any_path(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, own = HARDEST_PATH, here / PATHS[HARDEST_PATH]
    save_model(own / "model", model())
    write_source(own / "weights", tagger_state_dict(), config=tiny_config())
    (own / "shards").mkdir()
    row = json.dumps({"text": "obio", "label": {"name": {"bi": [[1, 2]]}}}) + "\n"
    data = f"{path}/data [bold] :fire:.json"  # rich would read both as markup
    for name in ("data [bold] :fire:.json", "texts.txt", "shards/1.jsonl"):
        (own / name).write_text("obio\n" if name == "texts.txt" else row)

    main(["inspect", f"{path}/model"])
    main(["inspect", f"{path}/weights/model.safetensors"])
    main(["predict", f"{path}/model", f"{path}/texts.txt"])
    assert "o[bi name]o" in capsys.readouterr().out
    options = ["--json", f"{path}/report.json", "--html", f"{path}/report.html"]
    train_data = ["--train", data, "--compare", f"{path}/model"]
    main(["evaluate", f"{path}/model", data, *train_data, *options])
    report = json.loads((own / "report.json").read_text())
    assert report["all"]["f1"] == 1 and report["model"] == f"{path}/model"
    printed = "".join(capsys.readouterr().out.split())
    assert f"{path}/modelon{data},strict".replace(" ", "") in printed
    main(["bulk", f"{path}/model", f"{path}/shards", f"{path}/tagged"])
    assert '"bi"' in (own / "tagged" / "1.jsonl").read_text().partition('"entities"')[2]
    main(["bulk", str(own / "model"), str(own / "shards"), f"{path}/tagged"])  # the same job
    assert "0 shards tagged, 1 already done" in capsys.readouterr().out
    options = ["--json", f"{path}/check.json", "--html", f"{path}/check.html"]
    main(["data", "check", data, "--model", f"{path}/model", *options])
    main(["data", "stats", data])
    assert Path(data).name in capsys.readouterr().out
    main(["data", "convert", data, f"{path}/data.conll"])
    assert len(read_examples(f"{path}/data.conll", "auto")) == 1
    main(["ensemble", f"{path}/both", f"{path}/model", f"{path}/model"])
    assert load(f"{path}/both").config.ensemble == 2
    beside = f"--vocab={path}/weights/vocab.txt", f"--config={path}/weights/config.json"
    torch_to_flax([f"{path}/weights/model.safetensors", f"{path}/converted", *beside])
    assert_same(
        load_model(f"{path}/converted").params, open_model(f"{path}/weights", "path")[0].params
    )
    flax_to_torch([f"{path}/model", f"{path}/hf", "--layout", "hf"])
    assert_same(open_model(f"{path}/hf", "path")[0].params, model().params)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")  # of ml_collections
def test_train_accepts_any_path(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path, own = HARDEST_PATH, here / PATHS[HARDEST_PATH]
    own.mkdir(parents=True)
    shutil.copytree(RUN / "run" / "best", own / "model")
    shutil.copy(RUN / "train.json", own)
    shutil.copy(RUN / "dev.json", own / "dev [bold] :fire:.json")  # rich would read both as markup
    (own / "configs").symlink_to(ROOT / "configs")
    (own / "texts.txt").write_text("王建国在东海市工作。\n", "utf-8")
    settings = {
        "init_from": f"{path}/model",
        "tokenizer.vocab": f"{path}/model/vocab.txt",
        "distill.teacher": f"{path}/model",
        "distill.texts": f"{path}/texts.txt",
        "data.format": "auto",
        "data.train": f"{path}/train.json",
        "data.dev": f"{path}/dev [bold] :fire:.json",
        "data.batch_size": 8,
        "data.max_length": 32,
        "train.steps": 2,
        **{f"model.{name}": 16 for name in ("hidden_size", "intermediate_size")},
        "model.num_hidden_layers": 1,
        "model.num_attention_heads": 2,
        "model.max_position_embeddings": 32,
    }
    arguments = ["train.py", f"--config={path}/configs/demo.py", f"--workdir={path}/run"]
    arguments += [f"--config.{name}={value}" for name, value in settings.items()]
    monkeypatch.setattr(sys, "argv", arguments)  # where ml_collections looks for settings
    train(parse(arguments))
    printed = "".join(capsys.readouterr().out.split())
    assert "/run/bestonlink/../模型%2e%2e/%20/../é/dev[bold]:fire:.json,strict" in printed
    assert {"best", "last", "checkpoints"} <= {path.name for path in (own / "run").iterdir()}
    assert load_model(f"{path}/run/last").vocab == load_model(RUN / "run" / "best").vocab
