"""What the loopback Hub keeps: contents by their hash, and repos as a history of whole trees."""

import hashlib
import io
import re
import secrets
import shutil
import time
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

import yaml

LFS_BYTES = 10 * 2**20  # the real threshold also depends on .gitattributes; no test should lean on it
LFS_ENDINGS = (".safetensors", ".bin", ".pt", ".pth", ".onnx", ".parquet", ".npy", ".npz", ".zip", ".whl")
LFS_POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:{}\nsize {}\n"
GIT_ATTRIBUTES = "".join(f"*{ending} filter=lfs diff=lfs merge=lfs -text\n" for ending in LFS_ENDINGS).encode()


def git_oid(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def belongs_in_lfs(path: str, size: int) -> bool:
    return size > LFS_BYTES or path.endswith(LFS_ENDINGS)


@dataclass(frozen=True)
class Blob:
    """The content of one file; in LFS, `oid` is the pointer's and `etag` the content's own.

    What came through Xet has its `xet` hash, and is `stored` only once somebody wants it without Xet.
    """

    stored: Path
    size: int
    oid: str
    etag: str
    lfs: dict = field(default_factory=dict)  # {"lfs": ...} as the Hub describes it, or nothing
    xet: str | None = None


@dataclass(frozen=True)
class Commit:
    sha: str
    date: str
    files: dict[str, Blob]  # sorted by path
    title: str = ""
    message: str = ""
    author: str = ""
    parent: str | None = None

    def tree(self) -> dict[str, dict]:
        """The Hub's description of every file and directory, by path."""
        folders = {str(folder) for path in self.files for folder in PurePosixPath(path).parents[:-1]}
        tree = {path: {"type": "directory", "oid": self.folder_oid(path), "size": 0} for path in folders}
        for path, blob in self.files.items():
            tree[path] = {"type": "file", "oid": blob.oid, "size": blob.size, **blob.lfs}
            if blob.xet:
                tree[path]["xetHash"] = blob.xet
        return {path: tree[path] | {"path": path} for path in sorted(tree)}

    def folder_oid(self, folder: str) -> str:
        inside = [(path, blob.oid) for path, blob in self.files.items() if path.startswith(folder + "/")]
        return git_oid(repr(inside).encode())

    def card_data(self) -> dict:
        readme = self.files["README.md"].stored.read_text("utf-8") if "README.md" in self.files else ""
        return front_matter(readme)


def front_matter(readme: str) -> dict:
    found = re.match(r"---\n(.*?)\n---", readme, re.DOTALL)
    return (yaml.safe_load(found[1]) or {}) if found else {}


@dataclass
class Repo:
    repo_id: str
    private: bool
    commits: dict[str, Commit] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    objects: set[str] = field(default_factory=set)  # the sha256 of what LFS may be asked for here

    def at(self, revision: str) -> Commit | None:
        for names in (self.branches, self.tags):
            revision = names.get(revision, revision)
        return self.commits.get(revision)

    def history(self, revision: str) -> list[Commit]:
        """Newest first."""
        history, commit = [], self.at(revision)
        while commit is not None:
            history.append(commit)
            commit = self.commits.get(commit.parent)
        return history

    def commit(self, branch: str, files: dict[str, Blob], title: str, message: str = "", author: str = "") -> Commit:
        """A branch's next commit is these files, all of them."""
        parent = self.branches.get(branch)
        files = {path: files[path] for path in sorted(files)}
        what = [self.repo_id, branch, parent, len(self.commits), title, [(path, files[path].oid) for path in files]]
        date = time.strftime("%Y-%m-%dT%H:%M:%S.000Z", time.gmtime())
        commit = Commit(git_oid(repr(what).encode()), date, files, title, message, author, parent)
        self.objects |= {blob.etag for blob in files.values() if blob.lfs}
        self.commits[commit.sha] = commit
        self.branches[branch] = commit.sha  # the one step by which all of it is there
        return commit


class Storage:
    """Contents in a folder, each under its sha256, and below `cas` what hf_xet writes itself."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.secret = secrets.token_hex()
        self.parts: dict[str, dict[int, bytes]] = {}  # of uploads that come in parts, by sha256
        self.cas = folder / "cas"
        self.cas.mkdir()

    def path(self, sha256: str) -> Path:
        return self.folder / sha256

    def signature(self, what: str) -> str:
        """Whoever knows it may ask for, or send, this content; nobody else may."""
        return hashlib.sha256(f"{self.secret} {what}".encode()).hexdigest()

    def keep(self, content: bytes | Path) -> str:
        """A copy, so that an older revision keeps its bytes when the caller's file changes; its sha256."""
        with io.BytesIO(content) if isinstance(content, bytes) else content.open("rb") as source:
            sha256 = hashlib.file_digest(source, "sha256").hexdigest()
            if not self.path(sha256).exists():
                source.seek(0)
                partial = self.path(f"{sha256}.{secrets.token_hex(4)}")
                with partial.open("wb") as copy:
                    shutil.copyfileobj(source, copy)
                partial.replace(self.path(sha256))  # several may send the same
        return sha256

    def regular(self, content: bytes) -> Blob:
        oid = git_oid(content)
        return Blob(self.path(self.keep(content)), len(content), oid, etag=oid)

    def large(self, sha256: str, size: int, xet: str | None = None) -> Blob:
        pointer = LFS_POINTER.format(sha256, size).encode()
        # A tree calls the hash "oid", a repo's siblings call it "sha256".
        lfs = {"oid": sha256, "sha256": sha256, "size": size, "pointerSize": len(pointer)}
        return Blob(self.path(sha256), size, git_oid(pointer), etag=sha256, lfs={"lfs": lfs}, xet=xet)

    def blob(self, path: str, content: bytes | Path) -> Blob:
        size = len(content) if isinstance(content, bytes) else content.stat().st_size
        if belongs_in_lfs(path, size):
            return self.large(self.keep(content), size)
        return self.regular(content if isinstance(content, bytes) else content.read_bytes())
