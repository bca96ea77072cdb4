"""One commit on the main branch of a repo, of which one knows afterwards whether it is there."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hub_utils.portable.command import UserError
from hub_utils.portable.hub import in_words, why, without_token

PATIENCE = 100.0  # seconds that the Hub may be silent; left to itself the client would wait for ever


def set_patience() -> None:
    """Let no request of this process wait longer than `PATIENCE` for the Hub to go on."""
    from huggingface_hub import get_session

    get_session().timeout = PATIENCE


def info_of(repo_id: str, repo_type: str | None = None, token: bool | None = None) -> Any:
    """What the Hub says of a repo, its files and main's last commit, `sha`, included; anonymously if `token` is False.

    One request for all of it, so that no commit comes between; and it can be told how long to wait, as a tree cannot.
    """
    from huggingface_hub import HfApi

    return HfApi(token=token).repo_info(repo_id, repo_type=repo_type, files_metadata=True, timeout=PATIENCE)


def files_of(info: Any) -> dict[str, Any]:
    """What main holds, as `info_of` has it: a `RepoSibling` by path."""
    return {file.rfilename: file for file in info.siblings or ()}


def changed(files: Mapping[str, bytes | Path], there: Mapping[str, Any]) -> dict[str, bytes | Path]:
    """Those of `files` that are new, or other than what is `there`, as of `files_of`."""
    return {path: content for path, content in files.items() if not _is_there(content, there.get(path))}


def _is_there(content: bytes | Path, file: Any) -> bool:
    """A large file goes by its SHA-256, any other by its hash in git: SHA-1 of a header and the content."""
    size = len(content) if isinstance(content, bytes) else content.stat().st_size
    if file is None or file.size != size:
        return False
    digest = hashlib.sha256() if file.lfs else hashlib.sha1(b"blob %d\0" % size)
    if isinstance(content, bytes):
        digest.update(content)
    else:
        with content.open("rb") as stream:
            hashlib.file_digest(stream, lambda: digest)
    return digest.hexdigest() == (file.lfs.sha256 if file.lfs else file.blob_id)


def commit(
    repo_id: str,
    files: Mapping[str, bytes | Path],
    head: str,
    message: str,
    wrong: type[Exception] = UserError,
    repo_type: str | None = None,
) -> str:
    """Commit `files`, by their path in the repo, upon `head`, and return the new commit's full hash.

    Whatever goes wrong, the Hub is asked what is there: if it is all there, and only the answer was lost, that is no
    error.

    Raises:
        wrong: in one line what went wrong, and what is on the Hub now.
    """
    from huggingface_hub import CommitOperationAdd, HfApi
    from huggingface_hub.errors import HTTPError

    additions = [CommitOperationAdd(path, content) for path, content in files.items()]
    try:
        made = HfApi().create_commit(
            repo_id, additions, commit_message=message, parent_commit=head, repo_type=repo_type
        )
        return made.oid
    except KeyboardInterrupt as error:
        state = _state(repo_id, files, head, repo_type)[1]
        raise wrong(f"interrupted; {state}") from error
    except (HTTPError, OSError, RuntimeError, ValueError) as error:
        sha, state = _state(repo_id, files, head, repo_type)
        if sha:
            return sha
        reason = why(error) or f"the upload failed ({' '.join(str(error).split())}); the same command again"
        raise wrong(without_token(f"'{repo_id}': {reason}; {state}")) from error


def _state(repo_id: str, files: Mapping[str, bytes | Path], head: str, repo_type: str | None) -> tuple[str | None, str]:
    """The commit if it is there, and in words what is there."""
    unknown = "whether the commit is there could not be asked: it is there whole or not at all, and the same command "
    try:
        with in_words(repo_id):
            now = info_of(repo_id, repo_type)
            if now.sha == head:
                return None, "nothing has changed on the Hub"
            if not changed(files, files_of(now)):
                return now.sha, f"all of it is on the Hub, as {now.sha}"
    except (UserError, KeyboardInterrupt):
        return None, unknown + "makes sure"
    return None, f"somebody else's commit {now.sha} is on the Hub, and nothing of this one"
