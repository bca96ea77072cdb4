"""Publish a folder of images, with the splits that training makes of it, as a data set on the Hub.

python training/push_dataset.py RECIPE_OR_DIR --repo_id OWNER/NAME [--data_dir DIR] [--public] [--dry_run]
"""

from __future__ import annotations

import argparse
import errno
import shlex
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from training.command import Parser, add_recipe_or_images, recipe_or_images, run_command
from training.recipe import Recipe, UserError

if TYPE_CHECKING:
    from hub_utils.portable.repo import Repo
    from training.data.shards import Written
    from training.data.survey import Survey

USAGE = "python training/push_dataset.py RECIPE_OR_DIR --repo_id OWNER/NAME [flags]"
EPILOG = """\
What goes: exactly the images that train.py would use, in the splits that it would make, as Parquet files with a card
that says whose they are, how many, and what was found in them. The data set is private unless --public is given.

What stays here: names of files, folders and groups (patients become numbers), and what cameras and programs write into
files: EXIF, GPS, XMP, IPTC, comments, colour profiles, thumbnails, further frames. JPEG and PNG keep every pixel. JPEGs
that EXIF turns are turned, with a loss that is hardly measurable; but if their sides are no multiples of 8 or 16 pixels
(cameras' are, cropped pictures' seldom) they become PNG, many times as large, and so do all other formats. What is in
the pixels goes: faces, number plates, a name burnt into a scan. Look before you publish.

All is sent in one commit: an interrupted push leaves the data set as it was. Nothing is ever deleted on the Hub: what
an earlier push brought stays in the repo's history.

examples:
  python training/push_dataset.py my_photos --dry_run
  python training/push_dataset.py my_photos --repo_id me/my-photos
  python training/push_dataset.py flowers --data_dir flower_photos --repo_id me/flowers --i_have_the_right
  accelerate launch -q training/train.py folder --dataset me/my-photos
"""


def parser() -> Parser:
    """The flags."""
    result = Parser(
        usage=USAGE,
        description="Publish a folder of images with its splits as a data set on the Hub, private unless you say so.",
        epilog=EPILOG,
    )
    add_recipe_or_images(result)
    result.add_argument(
        "--repo_id", metavar="OWNER/NAME", help="the data set's name on the Hub; NAME alone is in your own account"
    )
    result.add_argument("--public", action="store_true", help="for everybody to see (default: private)")
    result.add_argument(
        "--i_have_the_right",
        action="store_true",
        help="you may publish these images, although their licence is unknown or does not say so",
    )
    result.add_argument("--license", metavar="NAME", help="the images' licence, for the card, such as cc-by-4.0")
    result.add_argument("--tag", metavar="NAME", help="call this version by a name, as in --dataset … at revision NAME")
    result.add_argument(
        "--thorough", action="store_true", help="also keep crops, mirrored and overlapping views on one side of a split"
    )
    result.add_argument("--dry_run", action="store_true", help="say what would be sent, and send nothing")
    return result


def main(tokens: list[str]) -> int:
    """Run the command; the exit status."""
    known = parser().parse_args(tokens)
    recipe, _, paths = recipe_or_images(known.recipe, known.data_dir)
    if not (known.repo_id or known.dry_run):
        raise UserError("--repo_id OWNER/NAME is missing: what the data set is to be called; or --dry_run")

    # Only now, with the command understood, the libraries that take time to import.
    from training.data.licence import objection

    but = None if known.i_have_the_right else objection(recipe, known.public)
    if but and not known.dry_run:
        raise UserError(but)
    for flag, said in (("--repo_id", known.repo_id), ("--license", known.license), ("--tag", known.tag)):
        _check_no_token(flag, said or "", "say another")
    repo = _repo(known)
    with _room() as folder:
        survey, written = _write(recipe, paths, known, repo.repo_id, folder)
        if known.dry_run:
            print("sent       nothing, for --dry_run was given")
            if but:
                print(f"note       without --dry_run this is refused: {but}")
            words = [word for word in tokens if word != "--dry_run"]
            words += [] if known.repo_id else ["--repo_id", "OWNER/NAME"]
            print(f"next       {shlex.join(['python', 'training/push_dataset.py', *words])}")
            return 0
        _push(repo, survey, written, folder, known.tag)
    name = "folder" if paths and recipe.name == "folder" else known.recipe
    print(
        f"next       {shlex.join(['accelerate', 'launch', '-q', 'training/train.py', name, '--dataset', repo.repo_id])}"
    )
    if not known.public:
        print("           (it is private: elsewhere, `hf auth login` first, or HF_TOKEN=… of somebody who may read it)")
    return 0


def _repo(known: argparse.Namespace) -> Repo:
    """Where it will be, once it is sure that it may be there; in a dry run nobody is asked."""
    from hub_utils.portable.hub import Account, account, full_name
    from hub_utils.portable.repo import Repo, check_tag, find_repo
    from training.data.dataset_card import MARK

    check_tag(known.tag, UserError)
    if known.dry_run:
        repo_id = full_name(known.repo_id, "NAME", Account("OWNER"), UserError)
        return Repo(repo_id, "dataset", known.public)
    who = account(UserError)
    repo = find_repo(full_name(known.repo_id, "", who, UserError), who, "dataset", known.public, UserError)
    card = repo.info.card_data if repo.info else None
    if repo.files and MARK not in ((card and card.get("tags")) or ()):
        raise UserError(
            f"'{repo.repo_id}' is there and holds something else ({len(repo.files)} files, such as "
            f"{min(repo.files)}): choose another --repo_id"
        )
    return repo


@contextmanager
def _room() -> Iterator[Path]:
    """An empty folder where the system keeps passing things, which goes in the end.

    Raises:
        UserError: it is full, or nothing can be written there.
    """
    from hub_utils.portable.whole import passing

    place = Path(tempfile.gettempdir())
    try:
        with passing("push-dataset") as folder:
            yield Path(folder)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES):
            raise
        free = shutil.disk_usage(place).free / 1e9
        raise UserError(
            f"'{place}', where the data set is put together, takes no more ({error.strerror}; {free:.1f} GB are free): "
            "free some, or name another folder in the environment variable TMPDIR; nothing was sent"
        ) from error


def _write(
    recipe: Recipe, paths: list[str] | None, known: argparse.Namespace, repo_id: str, folder: Path
) -> tuple[Survey, Written]:
    """Write all that will be sent into `folder`, and say what it is."""
    from hub_utils.portable.whole import write_text
    from training.data.dataset_card import card_text
    from training.data.shards import write_shards
    from training.data.source import open_images
    from training.data.survey import survey

    seen = survey(recipe, known.recipe, open_images(recipe, paths), known.thorough)
    if seen.refusal:
        raise UserError(seen.refusal)
    for label in sorted({row.label for row in seen.rows}):
        _check_no_token("class", label, "rename its folder (or the class, in the table or the recipe)")
    written = write_shards(seen, folder)
    text = card_text(seen, written, folder, repo_id, known.license)
    for line in text.splitlines():
        _check_no_token("the card's line", line, f"mend recipe '{recipe.name}'")
    write_text(text, folder / "README.md")
    for line in _told(seen, written, folder, known):
        print(line)
    return seen, written


def _check_no_token(what: str, text: str, hint: str) -> None:
    """Raise `UserError`, which does not repeat it, if anything that is to be published looks like a token."""
    from hub_utils.portable.tokens import without_token

    if without_token(text) != text:
        raise UserError(
            f"{what} '{without_token(text)}' looks like a token of the Hub, and it would be published: {hint}; nothing "
            "was sent"
        )


def _told(survey: Survey, written: Written, folder: Path, known: argparse.Namespace) -> Iterator[str]:
    """What will be sent, for a person to read before it is."""
    from training.data.dataset_card import LOST, reasons
    from training.data.splits import SPLITS
    from training.data.strip import HOW

    yield f"{survey.recipe.title}: {len(survey.rows):,} images in {len(written.names)} classes"
    yield "splits     " + " · ".join(f"{split} {sum(row.split == split for row in survey.rows):,}" for split in SPLITS)
    if written.groups:
        yield f"groups     {written.groups:,}, as numbers that say nothing"
    for kind, count in reasons([*survey.skipped, *survey.left_out]):
        yield f"left out   {count:,} × {kind}"
    for kind, what in LOST.items():
        if written.found[kind]:
            yield f"removed    from {written.found[kind]:,} images: {what}"
    for how, count in written.how.most_common():
        yield f"files      {count:,} images: {HOW[how]}"
    yield f"licence    {known.license or survey.recipe.card.data_license}"
    shards = [folder / name for names in written.files.values() for name in names]
    size = sum(path.stat().st_size for path in shards)
    yield f"to send    {len(shards)} Parquet files, {size / 1e6:,.1f} MB, and README.md; for {_eyes(known.public)}"


def _eyes(public: bool) -> str:
    return "everybody to see" if public else "your eyes only"


def _push(repo: Repo, survey: Survey, written: Written, folder: Path, tag: str | None) -> None:
    """Send what has changed, in one commit, and say what is there now."""
    from hub_utils.portable.repo import changed, check_tag_free, commit, make_repo, set_tag
    from hub_utils.portable.tokens import with_token
    from training.data.dataset_card import draws_splits

    names = ["README.md", *(name for names in written.files.values() for name in names)]
    if found := with_token({name: folder / name for name in names}):
        raise UserError(f"nothing was sent, {found[0]} holds what looks like a token: in a class's name?")
    new = changed({name: folder / name for name in names}, repo)
    has_tag = check_tag_free(repo, tag, new, UserError)
    repo = make_repo(repo, UserError)
    message = f"{len(survey.rows):,} images in {len(written.names)} classes"
    revision = commit(repo, new, message, UserError) if new else repo.head
    if tag and not has_tag:
        set_tag(repo, tag, revision, UserError)
    print(f"wrote      {repo.url} ({'public' if repo.public else 'private'})")
    print(f"           {len(new)} of {len(names)} files had changed and were sent")
    print(f"revision   {revision}{f', tag {tag}' if tag else ''}")
    if repo.files and any(name.startswith("data/") for name in new) and draws_splits(survey):
        print(
            "note       the splits were drawn anew: images may have moved between train and test since "
            f"{repo.head[:8]}; train and test on one revision"
        )
    old = {name for name in repo.files if name.startswith("data/")} - {*names}
    if old:
        print(f"note       {len(old)} files of an earlier push are there still, and are not read: {repo.url}/tree/main")


if __name__ == "__main__":
    sys.exit(run_command(main, "the data set on the Hub is as it was or as it is to be, for all comes in one commit"))
