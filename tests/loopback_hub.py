"""A Hugging Face Hub on 127.0.0.1, from which the real clients download over a real socket.

    with LoopbackHub(tokens={"hf_alice": "alice"}) as hub:
        sha = hub.add("alice/tiny", folder, private=True)
        subprocess.run(command, env=hub.environment(tmp_path, token="hf_alice"))

transformers and datasets know no endpoint but HF_ENDPOINT and read it when imported: give them a process of
their own. `HfApi` and `hf_hub_download` also take `endpoint=hub.url`. Each `@route` answers one more request.
"""

import hashlib
import io
import json
import os
import re
import shutil
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from threading import Thread
from urllib.parse import parse_qs, unquote

import yaml

LFS_BYTES = 10 * 2**20  # the real threshold also depends on .gitattributes; no test should lean on it
Files = Mapping[str, bytes | Path] | Path  # by their path in the repo, or a folder of them
LFS_POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:{}\nsize {}\n"


def git_oid(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


@dataclass(frozen=True)
class Blob:
    """The content of one file; in LFS, `oid` is the pointer's and `etag` the content's own."""

    stored: Path
    size: int
    oid: str
    etag: str
    lfs: dict  # {"lfs": ...} as the Hub describes it, or nothing


@dataclass(frozen=True)
class Commit:
    sha: str
    date: str
    files: dict[str, Blob]  # sorted by path

    def tree(self) -> dict[str, dict]:
        """The Hub's description of every file and directory, by path."""
        folders = {str(folder) for path in self.files for folder in PurePosixPath(path).parents[:-1]}
        tree = {path: {"type": "directory", "oid": self.folder_oid(path), "size": 0} for path in folders}
        for path, blob in self.files.items():
            tree[path] = {"type": "file", "oid": blob.oid, "size": blob.size, **blob.lfs}
        return {path: tree[path] | {"path": path} for path in sorted(tree)}

    def folder_oid(self, folder: str) -> str:
        inside = [(path, blob.oid) for path, blob in self.files.items() if path.startswith(folder + "/")]
        return git_oid(repr(inside).encode())

    def card_data(self) -> dict:
        readme = self.files["README.md"].stored.read_text("utf-8") if "README.md" in self.files else ""
        front_matter = re.match(r"---\n(.*?)\n---", readme, re.DOTALL)
        return yaml.safe_load(front_matter[1]) if front_matter else {}


@dataclass
class Repo:
    private: bool
    commits: dict[str, Commit] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)

    def at(self, revision: str) -> Commit | None:
        return self.commits.get(self.branches.get(revision, revision))


class LoopbackHub:
    """Serves at `url` what `add` put there; `requests` lists the (method, path) of all that was asked."""

    def __init__(self, tokens: Mapping[str, str] | None = None):
        self.tokens = dict(tokens or {})  # token to user, who owns the repos under their name
        self.repos: dict[tuple[str, str], Repo] = {}
        self.requests: list[tuple[str, str]] = []
        self._storage = TemporaryDirectory(prefix="loopback-hub-")
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Handler, self))
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> "LoopbackHub":
        Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return self

    def __exit__(self, *exception) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._storage.cleanup()

    def add(self, repo_id: str, files: Files, repo_type: str = "model", private: bool = False) -> str:
        """Commit files on top of main, creating the repo if it is new, and return the commit's sha.

        As with `upload_folder`, files of earlier commits stay; as with `create_repo`, so does `private`.
        """
        if isinstance(files, Path):
            files = {path.relative_to(files).as_posix(): path for path in files.rglob("*") if path.is_file()}
        repo = self.repos.setdefault((f"{repo_type}s", repo_id), Repo(private))
        parent = repo.at("main")
        blobs = (parent.files if parent else {}) | {path: self._store(path, files[path]) for path in files}
        blobs = {path: blobs[path] for path in sorted(blobs)}
        history = [repo_id, *repo.commits, [(path, blob.oid) for path, blob in blobs.items()]]
        sha = git_oid(repr(history).encode())
        repo.commits[sha] = Commit(sha, time.strftime("%Y-%m-%dT%H:%M:%S.000Z", time.gmtime()), blobs)
        repo.branches["main"] = sha
        return sha

    def _store(self, path: str, content: bytes | Path) -> Blob:
        # A copy, so that an older revision keeps its bytes when the caller's file changes.
        with io.BytesIO(content) if isinstance(content, bytes) else content.open("rb") as source:
            digest = hashlib.sha256()
            while chunk := source.read(2**20):
                digest.update(chunk)
            sha256 = digest.hexdigest()
            stored = Path(self._storage.name, sha256)
            if not stored.exists():
                source.seek(0)
                with stored.open("wb") as copy:
                    shutil.copyfileobj(source, copy)
        size = stored.stat().st_size
        if size <= LFS_BYTES and not path.endswith(".safetensors"):
            oid = git_oid(stored.read_bytes())
            return Blob(stored, size, oid, etag=oid, lfs={})
        pointer = LFS_POINTER.format(sha256, size).encode()
        # A tree calls the hash "oid", a repo's siblings call it "sha256".
        lfs = {"oid": sha256, "sha256": sha256, "size": size, "pointerSize": len(pointer)}
        return Blob(stored, size, git_oid(pointer), etag=sha256, lfs={"lfs": lfs})

    def environment(self, home: Path, token: str | None = None) -> dict[str, str]:
        """All of a subprocess's environment: this Hub, its caches under `home`, and nobody else's token."""
        strangers = ("HF_", "HUGGING", "TRANSFORMERS_")
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(strangers)}
        return inherited | {
            "HF_ENDPOINT": self.url,
            "HF_HOME": str(home),
            "HF_TOKEN": token or "",
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_DISABLE_UPDATE_CHECK": "1",
            "HF_HUB_DISABLE_XET": "1",
            "no_proxy": "127.0.0.1",
        }


class HubError(Exception):
    """A refusal. The clients choose their exception by the headers, hardly by the status."""

    def __init__(self, status: int, message: str, **headers: str):
        super().__init__(message)
        self.status = status
        self.headers = {name.replace("_", "-"): value for name, value in headers.items()}


ROUTES: list[tuple[re.Pattern, Callable]] = []
REPO = r"(?P<repo_id>[^/]+(?:/[^/]+)?)"
REVISION = r"(?P<revision>[^/]+)"
API = rf"/api/(?P<kind>models|datasets|spaces)/{REPO}"


def route(methods: str, path: str) -> Callable:
    """Let the decorated method answer; it gets the named parts of the path, decoded."""

    def register(answer: Callable) -> Callable:
        ROUTES.append((re.compile(f"(?:{methods}) {path}"), answer))
        return answer

    return register


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"  # the clients keep their connections
    disable_nagle_algorithm = True  # head and body are two writes: they would wait 40 ms for each other

    def __init__(self, hub: LoopbackHub, *connection):
        self.hub = hub
        super().__init__(*connection)

    def handle(self) -> None:
        with suppress(ConnectionError):  # a client may leave in the middle of a file
            super().handle()

    def do_GET(self) -> None:
        self.hub.requests.append((self.command, self.path))
        # Read even what nobody wants, or it would be taken for the next request.
        self.body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        try:
            self.answer(*self.path.partition("?")[::2])
        except HubError as error:
            self.send_json({"error": str(error)}, error.status, error.headers)

    do_HEAD = do_POST = do_GET

    def answer(self, path: str, query: str) -> None:
        self.query = parse_qs(query)
        for pattern, answer in ROUTES:
            if match := pattern.fullmatch(f"{self.command} {path}"):
                # Decoded only now: one part, a revision say, may hold a slash.
                return answer(self, **{name: unquote(part) for name, part in match.groupdict("").items()})
        raise HubError(404, f"The loopback Hub does not answer {self.command} {path}")

    @route("GET", "/api/whoami-v2")
    def whoami(self) -> None:
        user = self.user()
        if user is None:
            raise HubError(401, "Invalid username or password.")
        auth = {"type": "access_token", "accessToken": {"displayName": "loopback", "role": "write"}}
        self.send_json({"type": "user", "name": user, "fullname": user, "orgs": [], "auth": auth})

    @route("GET", rf"{API}(?:/revision/{REVISION})?")
    def info(self, kind: str, repo_id: str, revision: str) -> None:
        repo, commit = self.find(kind, repo_id, revision or "main")
        card = commit.card_data()
        facts = {"id": repo_id, "sha": commit.sha, "lastModified": commit.date, "private": repo.private}
        facts |= {"gated": False, "disabled": False, "tags": card.get("tags", []), "cardData": card}
        facts |= {name: card[name] for name in ("pipeline_tag", "library_name", "sdk") if name in card}
        files = [entry for entry in commit.tree().values() if entry["type"] == "file"]
        siblings = [{"rfilename": file["path"], "blobId": file["oid"], **file} for file in files]
        self.send_json(facts | {"siblings": siblings})

    @route("GET", rf"{API}/tree/{REVISION}(?:/(?P<folder>.+))?")
    def tree(self, kind: str, repo_id: str, revision: str, folder: str) -> None:
        _, commit = self.find(kind, repo_id, revision)
        prefix = folder + "/" if folder else ""
        inside = [entry for path, entry in commit.tree().items() if path.startswith(prefix)]
        if folder and not inside:
            raise HubError(404, "Entry not found", X_Error_Code="EntryNotFound")
        if self.query.get("recursive") != ["true"]:
            inside = [entry for entry in inside if "/" not in entry["path"].removeprefix(prefix)]
        self.send_json(inside)

    @route("POST", rf"{API}/paths-info/{REVISION}")
    def paths_info(self, kind: str, repo_id: str, revision: str) -> None:
        tree = self.find(kind, repo_id, revision)[1].tree()
        paths = parse_qs(self.body.decode()).get("paths", [])
        self.send_json([tree[path] for path in paths if path in tree])

    @route("GET", rf"{API}/refs")
    def refs(self, kind: str, repo_id: str) -> None:
        heads = self.find(kind, repo_id, "main")[0].branches.items()
        branches = [{"name": name, "ref": f"refs/heads/{name}", "targetCommit": sha} for name, sha in heads]
        self.send_json({"branches": branches, "tags": [], "converts": [], "pullRequests": []})

    @route("GET|HEAD", rf"(?:/(?P<kind>datasets|spaces))?/{REPO}/resolve/{REVISION}/(?P<path>.+)")
    def resolve(self, kind: str, repo_id: str, revision: str, path: str) -> None:
        _, commit = self.find(kind or "models", repo_id, revision)
        blob = commit.files.get(path)
        if blob is None:
            raise HubError(404, "Entry not found", X_Error_Code="EntryNotFound", X_Repo_Commit=commit.sha)
        headers = {"X-Repo-Commit": commit.sha, "ETag": f'"{blob.etag}"', "Accept-Ranges": "bytes"}
        if blob.lfs:  # the real Hub redirects to another host; the clients are content with these on a 200
            headers |= {"X-Linked-Etag": f'"{blob.etag}"', "X-Linked-Size": str(blob.size)}
        self.send_blob(blob, headers)

    def user(self) -> str | None:
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        if token and token not in self.hub.tokens:
            message = "Invalid credentials in Authorization header"
            raise HubError(401, message, X_Error_Message=message)
        return self.hub.tokens.get(token)

    def find(self, kind: str, repo_id: str, revision: str) -> tuple[Repo, Commit]:
        user, repo = self.user(), self.hub.repos.get((kind, repo_id))
        if repo is None or (repo.private and user != repo_id.split("/")[0]):
            # The real Hub's 401 has no code, but without one the clients understand it over https only.
            raise HubError(404 if user else 401, "Repository not found", X_Error_Code="RepoNotFound")
        commit = repo.at(revision)
        if commit is None:
            raise HubError(404, f"Invalid rev id: {revision}", X_Error_Code="RevisionNotFound")
        return repo, commit

    def send_blob(self, blob: Blob, headers: dict[str, str]) -> None:
        status, start, stop = 200, 0, blob.size
        # The one form of Range that the clients send; any other may be ignored.
        if asked := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", "")):
            start, stop = int(asked[1]), min(int(asked[2] or blob.size) + 1, blob.size)
            if start >= stop:
                raise HubError(416, "Range not satisfiable", Content_Range=f"bytes */{blob.size}")
            status, headers["Content-Range"] = 206, f"bytes {start}-{stop - 1}/{blob.size}"
        self.send_head(status, stop - start, headers)
        if self.command == "GET" and start < stop:
            with blob.stored.open("rb") as file:
                self.connection.sendfile(file, start, stop - start)

    def send_json(self, answer: object, status: int = 200, headers: Mapping[str, str] | None = None) -> None:
        body = json.dumps(answer, default=str).encode()  # front matter may hold dates
        self.send_head(status, len(body), {"Content-Type": "application/json"} | (headers or {}))
        if self.command != "HEAD":
            self.wfile.write(body)

    def send_head(self, status: int, length: int, headers: Mapping[str, str]) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(length)}.items():
            self.send_header(name, value)
        self.end_headers()

    def log_message(self, *message) -> None:
        """Silent: `LoopbackHub.requests` is the log."""
