"""Downloads from the hub, against a local server that imitates it."""

import errno
import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import huggingface_hub
import pytest
from huggingface_hub.errors import FileMetadataError, HTTPError, LocalEntryNotFoundError

from flax_ner.errors import UserError
from flax_ner.weights.hub import resolve
from tests.local_server import NOWHERE
from tests.weights.hub_server import HubServer, commit, names

ROOT = Path(__file__).resolve().parents[2]
RESOLVE = """
import json, sys
from flax_ner.errors import UserError
from flax_ner.weights.hub import resolve

for name in sys.argv[1:]:
    try:
        print(json.dumps(["folder", str(resolve(name, "init_from"))]))
    except UserError as error:
        print(json.dumps(["error", str(error)]))
"""
SMALL = {"config.json", "vocab.txt"}


def repository(folder: Path, *weights: str, text: str = "") -> Path:
    """Create a repository with these weights and small files; `text` is the content of all files."""
    for name in ("README.md", *SMALL, *weights):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text or f"{folder.name}: {name}", "utf-8")
    return folder


def python(code: str, environment: Mapping[str, str], *arguments: str) -> str:
    """Run code in a new process where every warning is an error, and return what it prints."""
    command = [sys.executable, "-W", "error", "-c", code, *arguments]
    result = subprocess.run(
        command, cwd=ROOT, env=dict(environment), capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


def resolve_all(environment: Mapping[str, str], *asked: str) -> tuple[list[Path], list[str]]:
    """Resolve names in one new process; return the folders and the error messages."""
    answers = [json.loads(line) for line in python(RESOLVE, environment, *asked).splitlines()]
    folders = [Path(value) for kind, value in answers if kind == "folder"]
    return folders, [value for kind, value in answers if kind == "error"]


def test_a_model_is_downloaded_once(tmp_path: Path) -> None:
    source = repository(tmp_path / "model", "model.safetensors")
    with HubServer({"owner/model": source}) as server:
        environment = server.environment(tmp_path / "home")
        [folder], _ = resolve_all(environment, "owner/model")
        assert set(names(folder)) == SMALL | {"model.safetensors"}  # no README.md
        assert (folder / "vocab.txt").read_text() == "model: vocab.txt"
        assert folder.is_relative_to(tmp_path / "home")
        assert server.files() == set(names(folder))

        server.requests.clear()
        assert resolve_all(environment, "owner/model")[0] == [folder]
        assert not [request for request in server.requests if "/resolve/" in request]


def test_a_branch_tag_or_commit_is_downloaded(tmp_path: Path) -> None:
    revisions = ("", "@v1.0", "@refs/pr/1")
    repos = {
        f"owner/model{revision}": repository(tmp_path / str(i), "model.safetensors")
        for i, revision in enumerate(revisions)
    }
    with HubServer(repos) as server:
        asked = [*repos, "owner/model@main", f"owner/model@{commit(tmp_path / '1')}"]
        folders, errors = resolve_all(server.environment(tmp_path / "home"), *asked)
    assert not errors
    contents = [(folder / "vocab.txt").read_text()[0] for folder in folders]
    assert contents == ["0", "1", "2", "0", "1"]


def test_only_the_preferred_weights_are_downloaded(tmp_path: Path) -> None:
    shards = {f"model-0000{i}-of-00002.safetensors" for i in (1, 2)}
    pickles = {f"pytorch_model-0000{i}-of-00002.bin" for i in (1, 2)}
    tree = {
        "labels.json",
        "checksums.json",
        "params/manifest.ocdbt",
        "params/d/1f",
        "params/ocdbt.process_0/d/2e",
    }
    flax = {f"flax_model-0000{i}-of-00002.msgpack" for i in (1, 2)}
    offered_and_expected = {
        "both": ({"model.safetensors", "pytorch_model.bin", "tf_model.h5"}, {"model.safetensors"}),
        "shards": (
            {"model.safetensors.index.json", *shards, "pytorch_model.bin.index.json", *pickles},
            {"model.safetensors.index.json", *shards},
        ),
        "model_dir": ({*tree, "pytorch_model.bin"}, tree),
        "bin": ({"pytorch_model.bin", "flax_model.msgpack"}, {"pytorch_model.bin"}),
        "flax": (
            {"flax_model.msgpack.index.json", *flax, "tf_model.h5"},
            {"flax_model.msgpack.index.json", *flax},
        ),
        "bins": (
            {"pytorch_model.bin.index.json", *pickles},
            {"pytorch_model.bin.index.json", *pickles},
        ),
    }
    repos = {
        f"owner/{name}": repository(tmp_path / name, *offered)
        for name, (offered, _) in offered_and_expected.items()
    }
    with HubServer(repos) as server:
        folders, errors = resolve_all(server.environment(tmp_path / "home"), *repos)
        assert not errors
        assert [set(names(folder)) - SMALL for folder in folders] == [
            expected for _, expected in offered_and_expected.values()
        ]
        requests = [r for r in server.requests if "/resolve/" in r and r.endswith(".bin")]
        assert requests
        assert all("/owner/bin" in request for request in requests)
    assert (folders[2] / "params/d/1f").read_text() == "model_dir: params/d/1f"


def test_cached_models_need_no_connection(tmp_path: Path) -> None:
    repos = {
        "owner/safe": repository(tmp_path / "safe", "model.safetensors"),
        "owner/bin": repository(tmp_path / "bin", "pytorch_model.bin"),
        "owner/both": repository(tmp_path / "both", "model.safetensors", "pytorch_model.bin"),
        "owner/part": repository(tmp_path / "part", "model.safetensors"),
    }
    bare = "owner/bare"
    with HubServer(repos | {bare: repos["owner/safe"]}) as server:
        environment = server.environment(tmp_path / "home")
        online, _ = resolve_all(environment, "owner/safe", "owner/bin")
        # Caches that other programs leave: only the pickle of several weights, everything except the weights,
        # and a single file without the listing of the repository.
        others = f"""
import huggingface_hub as hub
hub.snapshot_download("owner/both", allow_patterns={[*SMALL, "pytorch_model.bin"]})
hub.snapshot_download("owner/part", allow_patterns={[*SMALL]})
hub.hf_hub_download({bare!r}, "config.json")
"""
        python(others, environment)

        server.requests.clear()
        asked = [*repos, "owner/none", bare]
        offline, errors = resolve_all(environment | {"HF_HUB_OFFLINE": "1"}, *asked)
        assert not server.requests
    assert offline[:2] == online
    assert set(names(offline[2])) == SMALL | {"pytorch_model.bin"}
    for name, error in zip(["owner/part", "owner/none"], errors, strict=False):
        assert error.startswith(f"init_from: no file or directory {name!r}, and HF_HUB_OFFLINE is")
        assert str(tmp_path / "home") in error
    no_weights = (
        f"init_from: the hub's cache has no weights of {bare!r}. Run once with a connection."
    )
    assert errors[2:] == [no_weights]

    again, errors = resolve_all(environment | {"HF_ENDPOINT": NOWHERE}, *asked)
    assert again == offline
    for name, error in zip(["owner/part", "owner/none"], errors, strict=False):
        assert error.startswith(f"init_from: no file or directory {name!r}, and the hub cannot be")
        assert "ConnectError" in error and "\n" not in error
    assert errors[2:] == [no_weights]


def test_refusals_of_the_hub_are_explained(tmp_path: Path) -> None:
    source = repository(tmp_path / "model", "model.safetensors")
    other = repository(tmp_path / "other", "tf_model.h5", "rust_model.ot.h5")
    repos = {f"owner/{name}": source for name in ("model", "private", "gated", "down", "limited")}
    errors = {"owner/private": 401, "owner/gated": 403, "owner/down": 503, "owner/limited": 429}
    expected = {
        "runs/nowhere": "no file or directory 'runs/nowhere', and the hub has no model with that name",
        "owner/private": "hub has no model with that name, or it is private. Check the spelling; for a",
        "owner/gated": "/owner/gated, and log in with `hf auth login`",
        "owner/model@v9": "the hub's 'owner/model' has no revision 'v9'. Give one of its branches",
        f"owner/model@{'0' * 40}": "has no revision '0000",
        "owner/down": "the hub answers HTTP 503: try again later.",
        "owner/limited": "the hub answers HTTP 429: try again later.",
        "owner/other": "'owner/other' on the hub has no supported weights, only "
        "rust_model.ot.h5, tf_model.h5. Supported are model.safetensors, ",
    }
    with HubServer(repos | {"owner/other": other}, errors) as server:
        folders, errors = resolve_all(server.environment(tmp_path / "home"), *expected)
    assert not folders
    for error, part in zip(errors, expected.values(), strict=True):
        assert error.startswith("init_from: ") and part in error
        assert "\n" not in error and "Request ID" not in error


def test_an_unwritable_cache_is_explained(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.write_text("a file, where a folder should be")
    with HubServer({"owner/model": repository(tmp_path / "model", "model.safetensors")}) as server:
        _, [error] = resolve_all(server.environment(home), "owner/model")
    assert error.startswith("init_from: no file or directory 'owner/model', and the download from")
    assert f"Check that its cache {home}" in error


@pytest.fixture
def no_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fail if the hub's library would start a download."""

    def download(*arguments: object, **more: object) -> None:
        pytest.fail(f"asked the hub for {arguments}")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)


@pytest.mark.usefixtures("no_hub")
def test_existing_paths_take_precedence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "owner/model@v1").mkdir(parents=True)
    (tmp_path / "weights.pth").touch()
    for name in ("owner", "owner/model@v1", "weights.pth", str(tmp_path)):
        assert resolve(name, "init_from") == Path(name)
    assert resolve(tmp_path / "owner", "MODEL") == tmp_path / "owner"


FILE_NAMES = (
    "model.pth",
    "runs/x.safetensors",
    "runs/MODEL.BIN",
    "owner/x.bin@main",
    "owner/x@a.pt",
)
PATHS = (
    "",
    "./demo/x",
    "../demo",
    "~/demo",
    "/no/such",
    "runs/nowhere/best",
    "runs/nowhere/",
    "C:\\x",
)
NO_REVISIONS = ("owner/model@", "owner/model@../../x", "owner/model@a b", "@main", "a/b/c@main")
NO_NAMES = ("模型/最好", "a--b", "-a/b")


@pytest.mark.parametrize("name", [*FILE_NAMES, *PATHS, *NO_REVISIONS, *NO_NAMES])
def test_names_that_look_like_paths_never_reach_the_network(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)  # in case it would try
    with pytest.raises(UserError) as caught:
        resolve(name, "init_from")
    assert str(caught.value) == (
        f"init_from: no file or directory {name!r}. Give a path that exists, or owner/name or "
        "owner/name@revision of a model on the hub."
    )


@pytest.mark.parametrize(
    ("error", "part"),
    [
        (HTTPError("read timed out"), "and the hub cannot be reached (HTTPError: read timed out)."),
        (LocalEntryNotFoundError("not\nthere"), "(LocalEntryNotFoundError: not there). Check the"),
        (FileMetadataError("no commit"), "does not answer like the hub (FileMetadataError: no"),
        (json.JSONDecodeError("Expecting value", "<html>", 0), "does not answer like the hub"),
        (RuntimeError("CAS service error"), "the download from the hub failed (RuntimeError: CAS"),
        (OSError(errno.ENOSPC, "No space left on device"), "can be written and has space"),
    ],
)
def test_download_failures_are_explained(
    error: Exception, part: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def download(*arguments: object, **more: object) -> None:
        raise error

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    with pytest.raises(UserError) as caught:
        resolve("owner/model", "init_from")
    assert str(caught.value).startswith("init_from: no file or directory 'owner/model', and ")
    assert part in str(caught.value)
