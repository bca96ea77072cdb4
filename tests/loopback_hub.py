"""A Hugging Face Hub on 127.0.0.1, which the real clients ask over a real socket.

    with LoopbackHub(tokens={"hf_alice": "alice"}) as hub:
        sha = hub.add("alice/tiny", folder, private=True)
        subprocess.run(command, env=hub.environment(tmp_path, token="hf_alice"))
        hub.fail("POST .*/commit/", "lose")

transformers and datasets know no endpoint but HF_ENDPOINT and read it when imported: give them a process of
their own. `HfApi` and `hf_hub_download` also take `endpoint=hub.url`. Each `@route` answers one more request: here
those that read, in `loopback_uploads` those that write, in `loopback_jobs` and `loopback_spaces` those that compute.
"""

import os
from collections.abc import Collection, Mapping
from functools import partial
from http.server import ThreadingHTTPServer
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import RLock, Thread
from urllib.parse import parse_qs

from loopback_faults import Faults
from loopback_http import API, REPO, REVISION, Answering, HubError, route
from loopback_jobs import Job, Jobs
from loopback_spaces import Space, Spaces
from loopback_storage import LFS_BYTES, Blob, Commit, Repo, Storage
from loopback_uploads import Uploads
from loopback_xet import Xet, fetch

__all__ = ["LFS_BYTES", "LoopbackHub"]

Files = Mapping[str, bytes | Path] | Path  # by their path in the repo, or a folder of them


class LoopbackHub:
    """Serves at `url` what `add` and uploads put there; `requests` lists the (method, path) of all that was asked."""

    def __init__(
        self,
        tokens: Mapping[str, str] | None = None,
        roles: Mapping[str, str] | None = None,
        organisations: Mapping[str, Collection[str]] | None = None,
    ):
        self.tokens = dict(tokens or {})  # token to user, who owns the repos under their name
        self.roles = dict(roles or {})  # token to "read" or "write", which it is if nothing is said
        self.organisations = dict(organisations or {})  # name to the users who may write there
        self.repos: dict[tuple[str, str], Repo] = {}
        self.jobs: list[Job] = []
        self.spaces: dict[str, Space] = {}
        self.free_accounts: set[str] = set()  # users who pay nothing: what they may host is little
        self.next_space = Space()  # what the next one is like: its stages and logs, for a test to say
        self.runs_spaces = False  # whether a commit to a Space starts it
        self.requests: list[tuple[str, str]] = []
        self.faults = Faults()
        self.lock = RLock()
        self._temporary = TemporaryDirectory(prefix="loopback-hub-")
        self.folder = Path(self._temporary.name)
        self.storage = Storage(self.folder)
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Handler, self))
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        # Large files lie under another name, as they do on the real Hub: no token may follow there.
        self.storage_url = f"http://localhost:{self._server.server_port}/storage"

    def __enter__(self) -> "LoopbackHub":
        Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return self

    def __exit__(self, *exception) -> None:
        self.recover()
        for space in self.spaces.values():
            space.stop()
        self._server.shutdown()
        self._server.server_close()
        self._temporary.cleanup()

    def add(self, repo_id: str, files: Files, repo_type: str = "model", private: bool = False) -> str:
        """Commit files on top of main, creating the repo if it is new, and return the commit's sha.

        As with `upload_folder`, files of earlier commits stay; as with `create_repo`, so does `private`.
        """
        if isinstance(files, Path):
            files = {path.relative_to(files).as_posix(): path for path in files.rglob("*") if path.is_file()}
        blobs = {path: self.storage.blob(path, files[path]) for path in files}
        with self.lock:
            repo = self.repos.setdefault((f"{repo_type}s", repo_id), Repo(repo_id, private))
            parent = repo.at("main")
            if repo_type == "space":
                self.spaces.setdefault(repo_id, Space())
            return repo.commit("main", (parent.files if parent else {}) | blobs, "Added").sha

    def files(self, repo_id: str, repo_type: str = "model", revision: str = "main") -> dict[str, bytes]:
        """What a revision holds, by path."""
        blobs = self.repos[f"{repo_type}s", repo_id].at(revision).files
        return {path: self.stored(blob).read_bytes() for path, blob in blobs.items()}

    def commits(self, repo_id: str, repo_type: str = "model") -> list[Commit]:
        """Of main, oldest first."""
        return self.repos[f"{repo_type}s", repo_id].history("main")[::-1]

    def stored(self, blob: Blob) -> Path:
        if not blob.stored.exists():
            fetch(self.storage.cas, blob)
        return blob.stored

    def fail(
        self,
        pattern: str,
        how: str | int,
        times: float = 1,
        skip: int = 0,
        seconds: float = 30,
        **headers: object,
    ) -> None:
        """Let requests go wrong: after `skip`, the next `times` of those whose "METHOD /path" has `pattern` in it.

        `how` is what happens to them. Of several faults that are meant for a request, it meets the one planned first.

        - "refuse": the connection is closed, and nothing is done;
        - "lose": all is done, and the connection closed without an answer;
        - "hang": nothing is done or said for `seconds`, then the connection is closed;
        - "slow": the answer's body comes in ten pieces, and takes `seconds` altogether;
        - "cut": the answer's body ends in the middle, and the connection with it;
        - "corrupt": one bit is wrong in the middle of the answer's body, or of the content that is sent with PUT;
        - "loop": a redirect to the same place;
        - "empty", "portal": nothing is done, and the answer is 200 with {}, or with a page to log in;
        - "down": refused, as is everything from then on, until `recover`;
        - a status such as 503, with `headers` such as Retry_After=1: nothing is done.
        """
        self.faults.plan(pattern, how, times, skip, seconds, headers)

    def recover(self) -> None:
        """Forget all faults; what hangs is let go."""
        self.faults.recover()

    def environment(self, home: Path, token: str | None = None, xet: bool = False) -> dict[str, str]:
        """All of a subprocess's environment: this Hub, its caches under `home`, and nobody else's token.

        With `xet`, only one process at a time may upload or download.
        """
        strangers = ("HF_", "HUGGING", "TRANSFORMERS_")
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(strangers)}
        return inherited | {
            "HF_ENDPOINT": self.url,
            "HF_HOME": str(home),
            "HF_TOKEN": token or "",
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_DISABLE_UPDATE_CHECK": "1",
            "HF_HUB_DISABLE_XET": "" if xet else "1",
            "no_proxy": "127.0.0.1,localhost",
        }

    def may_write(self, user: str | None, namespace: str) -> bool:
        return user is not None and (user == namespace or user in self.organisations.get(namespace, ()))


class _Handler(Uploads, Xet, Jobs, Spaces, Answering):
    """Who asks, for what, and what reads."""

    @route("GET", "/api/whoami-v2")
    def whoami(self) -> None:
        user = self.user()
        if user is None:
            raise HubError(401, "Invalid username or password.")
        mine = [name for name in self.hub.organisations if self.hub.may_write(user, name)]
        orgs = [{"name": name, "type": "org", "roleInOrg": "admin"} for name in mine]
        auth = {"type": "access_token", "accessToken": {"displayName": "loopback", "role": self.role()}}
        self.send_json({"type": "user", "name": user, "fullname": user, "orgs": orgs, "auth": auth})

    @route("GET", rf"{API}(?:/revision/{REVISION})?")
    def info(self, kind: str, repo_id: str, revision: str) -> None:
        repo, commit = self.find(kind, repo_id, revision or "main")
        card = commit.card_data()
        facts = {"id": repo_id, "author": repo_id.split("/")[0], "sha": commit.sha, "lastModified": commit.date}
        facts |= {"private": repo.private, "visibility": "private" if repo.private else "public"}
        facts |= {"gated": False, "disabled": False, "tags": card.get("tags", []), "cardData": card}
        facts |= {name: card[name] for name in ("pipeline_tag", "library_name", "sdk") if name in card}
        files = [entry for entry in commit.tree().values() if entry["type"] == "file"]
        facts["siblings"] = [{"rfilename": file["path"], "blobId": file["oid"], **file} for file in files]
        asked = {"id", *self.query["expand"]} if "expand" in self.query else facts.keys()
        self.send_json({name: facts[name] for name in facts if name in asked})

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
        repo, _ = self.find(kind, repo_id)

        def named(refs: Mapping[str, str], where: str) -> list[dict]:
            return [{"name": name, "ref": f"refs/{where}/{name}", "targetCommit": sha} for name, sha in refs.items()]

        pull_requests = {"pullRequests": []} if "include_prs" in self.query else {}
        refs = {"branches": named(repo.branches, "heads"), "tags": named(repo.tags, "tags"), "converts": []}
        self.send_json(refs | pull_requests)

    @route("GET", rf"{API}/commits/{REVISION}")
    def history(self, kind: str, repo_id: str, revision: str) -> None:
        repo, _ = self.find(kind, repo_id, revision)
        commits = [
            {
                "id": one.sha,
                "title": one.title,
                "message": one.message,
                "date": one.date,
                "authors": [{"user": one.author}],
            }
            for one in repo.history(revision)
        ]
        self.send_json(commits, headers={"X-Total-Count": str(len(commits))})

    @route("GET|HEAD", rf"(?:/(?P<kind>datasets|spaces))?/{REPO}/resolve/{REVISION}/(?P<path>.+)")
    def resolve(self, kind: str, repo_id: str, revision: str, path: str) -> None:
        _, commit = self.find(kind or "models", repo_id, revision)
        blob = commit.files.get(path)
        if blob is None:
            raise HubError(404, "Entry not found", X_Error_Code="EntryNotFound", X_Repo_Commit=commit.sha)
        headers = {"X-Repo-Commit": commit.sha}
        if not blob.lfs:
            return self.send_file(self.hub.stored(blob), headers | {"ETag": f'"{blob.etag}"'})
        # No ETag: what is known of the file stands in this answer, not in the other host's.
        headers |= {"X-Linked-Etag": f'"{blob.etag}"', "X-Linked-Size": str(blob.size)}
        headers |= self.xet_headers(kind or "models", repo_id, commit.sha, blob)
        self.send_json({}, 302, headers | {"Location": self.signed(blob.etag)})

    @route("GET|HEAD", "/storage/(?P<sha256>[0-9a-f]{64})")
    def large_file(self, sha256: str) -> None:
        self.check_signature(sha256)
        blob = next(
            blob
            for repo in list(self.hub.repos.values())
            for commit in list(repo.commits.values())
            for blob in commit.files.values()
            if blob.etag == sha256
        )
        self.send_file(self.hub.stored(blob), {"ETag": f'"{sha256[:32]}"', "Content-Type": "binary/octet-stream"})

    def signed(self, what: str) -> str:
        return f"{self.hub.storage_url}/{what}?signature={self.hub.storage.signature(what)}"

    def check_signature(self, what: str) -> None:
        if "Authorization" in self.headers:
            raise HubError(400, "Only one auth mechanism allowed: a signed address takes no token")
        if self.query.get("signature") != [self.hub.storage.signature(what)]:
            raise HubError(403, "Access denied: no such signature")

    def token(self) -> str:
        return self.headers.get("Authorization", "").removeprefix("Bearer ")

    def role(self) -> str:
        return self.hub.roles.get(self.token(), "write")

    def user(self) -> str | None:
        token = self.token()
        if token and token not in self.hub.tokens:
            message = "Invalid credentials in Authorization header"
            raise HubError(401, message, X_Error_Message=message)
        return self.hub.tokens.get(token)

    def find(self, kind: str, repo_id: str, revision: str = "main", to_write: bool = False) -> tuple[Repo, Commit]:
        user, repo = self.user(), self.hub.repos.get((kind, repo_id))
        is_mine = self.hub.may_write(user, repo_id.split("/")[0])
        if repo is None or (repo.private and not is_mine):
            # The real Hub's 401 has no code, but without one the clients understand it over https only.
            raise HubError(404 if user else 401, "Repository not found", X_Error_Code="RepoNotFound")
        if to_write:
            self.check_right(repo_id.split("/")[0])
        commit = repo.at(revision)
        if commit is None:
            raise HubError(404, f"Invalid rev id: {revision}", X_Error_Code="RevisionNotFound")
        return repo, commit

    def check_right(self, namespace: str) -> None:
        user = self.user()
        if user is None:
            raise HubError(401, "Invalid username or password.")
        if self.role() == "read":
            raise HubError(403, "Forbidden: this token may only read, pass a token with the role write")
        if not self.hub.may_write(user, namespace):
            raise HubError(403, f"Forbidden: you have no right to write under the namespace {namespace}")
