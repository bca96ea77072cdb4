"""What a Space on the Hub holds, and whether a push may replace it: who made it, and what was changed there since."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hub_utils.bundle import MARK
from hub_utils.portable.command import UserError
from hub_utils.portable.hub import in_words
from hub_utils.portable.repo import Repo, changed

MESSAGE = "The page and its model, as hub_utils.space bundled them"
UNCHANGED = "nothing has changed on the Hub"


def check_there(repo: Repo, files: Mapping[str, bytes], page: str, replace_changes: bool) -> None:
    """Refuse a Space that is not to be replaced by the bundle `files` of this `page`.

    Raises:
        UserError: it was made elsewhere, or is another page, or holds what somebody changed, or what would be shown.
    """
    there = {path: file for path, file in repo.files.items() if path != "README.md"}
    elsewhere = "--repo_id OWNER/NAME for another Space"
    if there and MARK not in there:
        raise UserError(f"'{repo.repo_id}' is a Space that was not made here ({sorted(there)[0]}); {elsewhere}")
    _check_examples(repo, files, elsewhere)
    new = changed(files, repo)
    if not there or replace_changes or not new:
        return
    other = _page(repo) if "app.py" in new and "app.py" in there else None
    if other and other != page:
        raise UserError(
            f"'{repo.repo_id}' shows another page, '{other}', and this push would put '{page}' in its place: "
            f"--replace_changes says that it may, or {elsewhere}"
        )
    title, theirs = _changed_there(repo, new)
    if theirs:
        raise UserError(
            f"somebody changed {_some(theirs)} of '{repo.repo_id}' on the Hub since ('{title}', "
            f"{repo.url}/commits/main), and this push would replace it: --replace_changes says that it may, or "
            f"{elsewhere}"
        )


def _check_examples(repo: Repo, files: Mapping[str, bytes], elsewhere: str) -> None:
    """Refuse pictures of an earlier bundle, or of somebody else, that the page would go on showing."""
    stale = sorted(path for path in repo.files if path.startswith("examples/") and path not in files)
    if stale:
        which = stale if any(path.startswith("examples/") for path in files) else ["examples/*"]
        delete = shlex.join(["hf", "repos", "delete-files", repo.repo_id, *which, "--type", "space"])
        raise UserError(
            f"'{repo.repo_id}' has {_some(stale)}, which this bundle has not, and which its page would show; nothing "
            "is ever deleted from here, not with --replace_changes: bundle them again, with --examples N as before; "
            f"or delete them, {delete}, and then the same command; or {elsewhere}"
        )


def _some(paths: list[str]) -> str:
    return f"{', '.join(paths[:3])}{', …' * (len(paths) > 3)}"


def _page(repo: Repo) -> str | None:
    """What its app.py shows, as `bundle.app_text` writes it: the name of a page, or the suite; None if it is other."""
    from huggingface_hub import hf_hub_download

    with in_words(f"app.py of '{repo.repo_id}'", state=UNCHANGED):
        path = hf_hub_download(repo.repo_id, "app.py", repo_type="space", revision=repo.head)
    found = re.search(r'^demo = build_(?:demo\("(.+)"\)|suite\()', Path(path).read_text(errors="replace"), re.MULTILINE)
    return (found[1] or "suite") if found else None


def _changed_there(repo: Repo, new: Mapping[str, Any]) -> tuple[str, list[str]]:
    """The last commit's title, and those of the files `new` that are not as our own last commit left them."""
    from huggingface_hub import HfApi

    api = HfApi()
    with in_words(f"the commits of '{repo.repo_id}'", state=UNCHANGED):
        commits = api.list_repo_commits(repo.repo_id, repo_type="space")
        ours = next((each.commit_id for each in commits if each.title == MESSAGE), None)
        left = {}
        if ours:
            info = api.repo_info(repo.repo_id, repo_type="space", revision=ours, files_metadata=True)
            left = {file.rfilename: file.blob_id for file in info.siblings or ()}
    now = {path: file.blob_id for path, file in repo.files.items()}
    return commits[0].title, sorted(path for path in new if now.get(path) != left.get(path))
