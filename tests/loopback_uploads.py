"""How the loopback Hub is written to: repos, contents, commits, tags and branches."""

import base64
import hashlib
import json
import re
from http import HTTPStatus
from math import ceil

import yaml
from loopback_http import API, REPO, REVISION, HubError, route
from loopback_storage import GIT_ATTRIBUTES, Blob, Repo, belongs_in_lfs, front_matter
from loopback_xet import hashes

PART_BYTES = 5 * 2**20  # what is larger comes in parts
LFS = rf"(?:/(?P<kind>datasets|spaces))?/{REPO}\.git/info/lfs/objects"


class Uploads:
    """Answers of `loopback_hub._Handler`."""

    @route("POST", "/api/repos/create")
    def create(self) -> None:
        asked = self.json()
        user = self.user()
        owner, name = asked.get("organization") or user, asked["name"]
        self.check_right(owner)
        if not re.fullmatch(r"[A-Za-z0-9](?!.*(--|\.\.))[\w.-]{0,94}[A-Za-z0-9_]?", name):
            raise HubError(400, f"Invalid repo name: {name}")
        kind, repo_id = f"{asked.get('type', 'model')}s", f"{owner}/{name}"
        prefix = "" if kind == "models" else f"{kind}/"
        answer = {"url": f"{self.hub.url}/{prefix}{repo_id}", "name": repo_id}
        attributes = {".gitattributes": self.hub.storage.regular(GIT_ATTRIBUTES)}
        with self.hub.lock:
            if (kind, repo_id) in self.hub.repos:
                message = f"You already created this {kind[:-1]} repo"
                raise HubError(409, message, body=answer | {"error": message})
            if kind == "spaces":
                self.make_space(repo_id, asked)
            repo = self.hub.repos[kind, repo_id] = Repo(repo_id, asked.get("visibility") == "private")
            repo.commit("main", attributes, "initial commit", author=user)
        self.send_json(answer)

    @route("PUT", rf"{API}/settings")
    def settings(self, kind: str, repo_id: str) -> None:
        repo, _ = self.find(kind, repo_id, to_write=True)
        if "visibility" in self.json():
            repo.private = self.json()["visibility"] == "private"
        self.send_json({"private": repo.private})

    @route("POST", "/api/validate-yaml")
    def validate_yaml(self) -> None:
        try:
            card = front_matter(self.json()["content"].replace("\r\n", "\n"))
            errors = [] if isinstance(card, dict) else [{"message": "the front matter is no mapping"}]
        except yaml.YAMLError as error:
            card, errors = None, [{"message": str(error)}]
        empty = {"message": "empty or missing yaml metadata in repo card"}
        self.send_json({"errors": errors, "warnings": [empty] if card == {} else []}, 400 if errors else 200)

    @route("POST", rf"{API}/preupload/{REVISION}")
    def preupload(self, kind: str, repo_id: str, revision: str) -> None:
        _, commit = self.find(kind, repo_id, revision, to_write=True)

        def one(asked: dict) -> dict:
            mode = "lfs" if belongs_in_lfs(asked["path"], asked["size"]) else "regular"
            known = commit.files.get(asked["path"])
            return {"path": asked["path"], "uploadMode": mode, "shouldIgnore": False, "oid": known and known.etag}

        self.send_json({"files": [one(asked) for asked in self.json()["files"]]})

    @route("POST", rf"{LFS}/batch")
    def lfs_batch(self, kind: str, repo_id: str) -> None:
        repo, _ = self.find(kind or "models", repo_id, to_write=True)
        base = f"{self.hub.url}/{kind + '/' if kind else ''}{repo_id}.git/info/lfs/objects"

        def one(asked: dict) -> dict:
            oid, size = asked["oid"], asked["size"]
            if oid in repo.objects:
                return asked
            upload = {"href": self.signed(oid)}
            if size > PART_BYTES:
                parts = {
                    str(number): self.signed(f"{oid}/{number}") for number in range(1, ceil(size / PART_BYTES) + 1)
                }
                upload = {"href": self.signed(f"{oid}/complete"), "header": {"chunk_size": str(PART_BYTES), **parts}}
            return asked | {"actions": {"upload": upload, "verify": {"href": f"{base}/verify"}}}

        self.send_json({"transfer": "basic", "objects": [one(asked) for asked in self.json()["objects"]]})

    @route("PUT", "/storage/(?P<sha256>[0-9a-f]{64})")
    def put(self, sha256: str) -> None:
        self.check_signature(sha256)
        self.keep(sha256, self.body)
        self.send_json({})

    @route("PUT", "/storage/(?P<sha256>[0-9a-f]{64})/(?P<number>[0-9]+)")
    def put_part(self, sha256: str, number: str) -> None:
        self.check_signature(f"{sha256}/{number}")
        self.hub.storage.parts.setdefault(sha256, {})[int(number)] = self.body
        self.send_bytes(b"", 200, {"ETag": f'"{hashlib.md5(self.body).hexdigest()}"'})

    @route("POST", "/storage/(?P<sha256>[0-9a-f]{64})/complete")
    def complete(self, sha256: str) -> None:
        self.check_signature(f"{sha256}/complete")
        sent = self.hub.storage.parts.get(sha256, {})
        for part in self.json()["parts"]:
            if part["etag"] != f'"{hashlib.md5(sent.get(part["partNumber"], b"")).hexdigest()}"':
                raise HubError(400, f"InvalidPart: {part['partNumber']}")
        self.keep(sha256, b"".join(sent[part["partNumber"]] for part in self.json()["parts"]))
        del self.hub.storage.parts[sha256]
        self.send_json({})

    def keep(self, sha256: str, content: bytes) -> None:
        if hashlib.sha256(content).hexdigest() != sha256:
            raise HubError(400, "XAmzContentSHA256Mismatch: what was sent is not what was announced")
        self.hub.storage.keep(content)

    @route("POST", rf"{LFS}/verify")
    def verify(self, kind: str, repo_id: str) -> None:
        repo, _ = self.find(kind or "models", repo_id, to_write=True)
        stored = self.hub.storage.path(self.json()["oid"])
        if not stored.exists() or stored.stat().st_size != self.json()["size"]:
            raise HubError(404, "Object not found, or of another size")
        repo.objects.add(self.json()["oid"])
        self.send_json({})

    @route("POST", rf"{API}/commit/{REVISION}")
    def commit(self, kind: str, repo_id: str, revision: str) -> None:
        repo, _ = self.find(kind, repo_id, revision, to_write=True)
        if "create_pr" in self.query:
            raise HubError(501, "The loopback Hub knows no pull requests")
        header, *operations = [json.loads(line) for line in self.body.splitlines()]
        header = header["value"]
        with self.hub.lock:
            head = repo.branches.get(revision)
            if head is None:
                raise HubError(404, f"Invalid rev id: {revision}", X_Error_Code="RevisionNotFound")
            if header.get("parentCommit", head) != head:
                raise HubError(
                    HTTPStatus.PRECONDITION_FAILED, "A commit has happened since. Please refresh and try again."
                )
            files = dict(repo.commits[head].files)
            for operation in operations:
                self.apply(operation["key"], operation["value"], files, repo)
            commit = repo.commit(revision, files, header["summary"], header.get("description", ""), self.user())
        if kind == "spaces":
            self.committed(repo_id, commit.sha)
        prefix = "" if kind == "models" else f"{kind}/"
        url = f"{self.hub.url}/{prefix}{repo_id}/commit/{commit.sha}"
        self.send_json({"success": True, "commitOid": commit.sha, "commitUrl": url, "hookOutput": ""})

    def apply(self, key: str, value: dict, files: dict[str, Blob], repo: Repo) -> None:
        path = value["path"]
        if key == "file":
            files[path] = self.hub.storage.regular(base64.b64decode(value["content"], validate=True))
        elif key == "lfsFile":
            files[path] = self.large(value["oid"], value.get("size"), repo)
        elif key == "deletedFile" and path in files:
            del files[path]
        elif key == "deletedFolder" and any(name.startswith(path) for name in files):
            for name in [name for name in files if name.startswith(path)]:
                del files[name]
        else:
            message = "A file with this name doesn't exist" if key.startswith("deleted") else f"no operation {key}"
            raise HubError(404, f"{message}: {path}", X_Error_Code="EntryNotFound")

    def large(self, sha256: str, size: int | None, repo: Repo) -> Blob:
        """What was sent before, to this repo: through LFS, or through Xet."""
        if sha256 in repo.objects and self.hub.storage.path(sha256).exists():
            return self.hub.storage.large(sha256, self.hub.storage.path(sha256).stat().st_size)
        xet = hashes(self.hub.storage.cas).get(sha256)
        if xet is None:
            raise HubError(400, f"LFS pointer pointed to a file that does not exist: {sha256}")
        return self.hub.storage.large(sha256, size, xet)

    @route("POST", rf"{API}/tag/{REVISION}")
    def tag(self, kind: str, repo_id: str, revision: str) -> None:
        repo, commit = self.find(kind, repo_id, revision, to_write=True)
        self.name_once(repo.tags, self.json()["tag"], commit.sha)

    @route("POST", rf"{API}/branch/(?P<name>[^/]+)")
    def branch(self, kind: str, repo_id: str, name: str) -> None:
        repo, commit = self.find(kind, repo_id, self.json().get("startingPoint", "main"), to_write=True)
        self.name_once(repo.branches, name, commit.sha)

    def name_once(self, names: dict[str, str], name: str, sha: str) -> None:
        with self.hub.lock:
            if name in names:
                raise HubError(409, f"Reference already exists: {name}")
            names[name] = sha
        self.send_json({})
