"""A local server with the part of the Hugging Face hub that downloads need."""

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
    """Server of folders as repositories: `with HubServer({"owner/name": folder}) as server:`.

    Attributes:
        repos: folder by `owner/name` (branch `main`) or `owner/name@revision`.
        errors: HTTP status by `owner/name`, returned for each request: 401 and 404 with the hub's headers for
            a private or missing repository, 403 with those for a gated one (whose listing can still be read),
            others without headers.
        requests: the requests in order, as `GET /owner/name/resolve/main/config.json`.
        url: value for HF_ENDPOINT.
    """

    def __init__(self, repos: Mapping[str, Path], errors: Mapping[str, int] | None = None) -> None:
        self.repos, self.errors = dict(repos), dict(errors or {})
        self.requests: list[str] = []
        super().__init__(_Handler)
        self.url = self.address

    def environment(self, home: Path, **more: str) -> dict[str, str]:
        """Return environment variables for a process that uses this server, with its cache in `home`.

        The hub's library reads them at import, so setting them within a test is too late.
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
        """Return the folder of a repository at a branch, tag or commit."""
        folders = {name: path for name, path in self.repos.items() if name.split("@")[0] == repo}
        by_commit = {commit(path): path for path in folders.values()}
        name = repo if revision == "main" else f"{repo}@{revision}"
        return folders.get(name, by_commit.get(revision))

    def files(self) -> set[str]:
        """Return the names of the downloaded files."""
        paths = [request[4:] for request in self.requests if request.startswith("GET ")]
        return {match["file"] for path in paths if (match := FILE.fullmatch(path))}


def commit(folder: Path) -> str:
    """Return the commit hash of a folder: a digest of its files."""
    digest = hashlib.sha1()
    for name in names(folder):
        digest.update(name.encode() + b"\0" + (folder / name).read_bytes())
    return digest.hexdigest()


def names(folder: Path) -> list[str]:
    """Return the paths of the files in a folder, sorted, with slashes."""
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())


class _Handler(BaseHTTPRequestHandler):
    server_of: HubServer

    def do_GET(self) -> None:
        path = urlsplit(self.path).path
        self.server_of.requests.append(f"{self.command} {unquote(path)}")
        match = API.fullmatch(path) or FILE.fullmatch(path)
        if not match:
            return self._answer(404)
        parts = {name: unquote(value) for name, value in match.groupdict().items()}
        repo, is_file = parts["repo"], "file" in parts
        error = self.server_of.errors.get(repo)
        if error == 403:
            if is_file:
                return self._answer(403, {"X-Error-Code": "GatedRepo"})
        elif error:
            code = {"X-Error-Code": "RepoNotFound"} if error in (401, 404) else {}
            return self._answer(error, code)
        if not any(name.split("@")[0] == repo for name in self.server_of.repos):
            return self._answer(404, {"X-Error-Code": "RepoNotFound"})
        folder = self.server_of.folder(repo, parts["revision"])
        if folder is None:
            return self._answer(404, {"X-Error-Code": "RevisionNotFound"})
        if is_file:
            return self._file(folder, parts["file"])
        if parts["kind"] == "tree":
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
    """Return git's hash of the content of a file."""
    data = path.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
