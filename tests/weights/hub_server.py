"""The part of the Hugging Face hub that downloads need, on this machine."""

import hashlib
import json
import os
import re
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from urllib.parse import unquote, urlsplit

from tests.local_server import LocalServer

API = re.compile(r"/api/models/(?P<repo>.+)/(?P<kind>revision|tree)/(?P<revision>[^/]+)")
FILE = re.compile(r"/(?P<repo>.+)/resolve/(?P<revision>[^/]+)/(?P<file>.+)")


class HubServer(LocalServer):
    """Serves folders as repositories: `with HubServer({"owner/name": folder}) as server:`.

    Attributes:
        repos: folder by `owner/name` (its branch `main`) or `owner/name@revision`.
        faults: HTTP status by `owner/name`, given instead of an answer: 401 and 404 as the hub says
            that a repository is private or missing, 403 as for a gated one (whose listing can still
            be read), others as they are.
        requests: what was asked, in order, as `GET /owner/name/resolve/main/config.json`.
        url: for HF_ENDPOINT.
    """

    def __init__(self, repos: Mapping[str, Path], faults: Mapping[str, int] | None = None) -> None:
        self.repos, self.faults = dict(repos), dict(faults or {})
        self.requests: list[str] = []
        super().__init__(_Handler)
        self.url = self.address

    def environment(self, home: Path, **more: str) -> dict[str, str]:
        """Variables for a process that asks this server and keeps its cache in `home`.

        The hub's library reads them when it is imported: setting them in a test is too late.
        """
        ours = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("HF_", "HUGGING", "TRANSFORMERS_"))
        }
        return ours | {
            "HF_ENDPOINT": self.url,
            "HF_HOME": str(home),
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
            "NO_PROXY": "127.0.0.1",
            **more,
        }

    def folder(self, repo: str, revision: str) -> Path | None:
        """The folder of a repository at a branch, a tag or a commit."""
        folders = {name: path for name, path in self.repos.items() if name.split("@")[0] == repo}
        by_commit = {commit(path): path for path in folders.values()}
        name = repo if revision == "main" else f"{repo}@{revision}"
        return folders.get(name, by_commit.get(revision))

    def files(self) -> set[str]:
        """Names of the files that were downloaded."""
        paths = [request[4:] for request in self.requests if request.startswith("GET ")]
        return {match["file"] for path in paths if (match := FILE.fullmatch(path))}


def commit(folder: Path) -> str:
    """The commit by which the server knows a folder: a digest of its files."""
    digest = hashlib.sha1()
    for name in names(folder):
        digest.update(name.encode() + b"\0" + (folder / name).read_bytes())
    return digest.hexdigest()


def names(folder: Path) -> list[str]:
    """Paths of the files in a folder, with slashes, sorted."""
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())


class _Handler(BaseHTTPRequestHandler):
    server_of: HubServer

    def do_GET(self) -> None:
        path = urlsplit(self.path).path
        self.server_of.requests.append(f"{self.command} {unquote(path)}")
        match = API.fullmatch(path) or FILE.fullmatch(path)
        if not match:
            return self._answer(404)
        asked = {name: unquote(value) for name, value in match.groupdict().items()}
        repo, is_file = asked["repo"], "file" in asked
        fault = self.server_of.faults.get(repo)
        if fault == 403:
            if is_file:
                return self._answer(403, {"X-Error-Code": "GatedRepo"})
        elif fault:
            code = {"X-Error-Code": "RepoNotFound"} if fault in (401, 404) else {}
            return self._answer(fault, code)
        if not any(name.split("@")[0] == repo for name in self.server_of.repos):
            return self._answer(404, {"X-Error-Code": "RepoNotFound"})
        folder = self.server_of.folder(repo, asked["revision"])
        if folder is None:
            return self._answer(404, {"X-Error-Code": "RevisionNotFound"})
        if is_file:
            return self._file(folder, asked["file"])
        if asked["kind"] == "tree":
            return self._json([_entry(folder, name) for name in names(folder)])
        siblings = [{"rfilename": name} for name in names(folder)]
        return self._json({"id": repo, "sha": commit(folder), "siblings": siblings})

    do_HEAD = do_GET

    def _file(self, folder: Path, name: str) -> None:
        if name not in names(folder):
            return self._answer(404, {"X-Error-Code": "EntryNotFound"})
        headers = {"X-Repo-Commit": commit(folder), "ETag": f'"{_blob(folder / name)}"'}
        self._answer(200, headers, (folder / name).read_bytes())

    def _json(self, value: object) -> None:
        self._answer(200, {"Content-Type": "application/json"}, json.dumps(value).encode())

    def _answer(
        self, status: int, headers: Mapping[str, str] | None = None, body: bytes = b""
    ) -> None:
        self.send_response(status)
        for name, value in {**(headers or {}), "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Stay silent; `requests` tells."""


def _entry(folder: Path, name: str) -> dict[str, object]:
    path = folder / name
    return {"type": "file", "path": name, "size": path.stat().st_size, "oid": _blob(path)}


def _blob(path: Path) -> str:
    """What git calls the content of a file."""
    data = path.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
