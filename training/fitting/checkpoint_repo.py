"""Checkpoints that outlive the machine: each goes to a private repo on the Hub while training goes on.

What lies there, called as in the run folder:

    run.json                       the number that the run drew when it began, and which files tell its images
    recipe.json  log_history.csv   as they are
    checkpoints/STAGE/checkpoint-STEP/…    what a run goes on from, and nothing else; no pickle that could run code
    data.json  splits.csv  skipped.csv  conflicts.csv    of a data set on the Hub, as they are below `local/`
    splits.csv                     of images on this machine: content, label and split alone; no path, name or group

Each commit is whole: what is on the Hub after it is enough to go on from. Nothing is ever deleted there.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import shutil
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from accelerate import PartialState
from tqdm.auto import tqdm
from transformers import TrainerCallback

from hub_utils.portable import harmless_csv
from hub_utils.portable.hub import account, full_name, in_words, why
from hub_utils.portable.repo import Repo, changed, info_of
from hub_utils.portable.tokens import with_token, without_token
from training.data.splits import read_splits
from training.fitting import checkpoints
from training.preemption import Stopped
from training.recipe import UserError, first_line
from training.run_folder import RunFolder, read_json, write_json

FLAG = "--checkpoint_repo"
SUFFIX = "-checkpoints"
RUN, RECIPE, HISTORY, DATA, SPLITS = "run.json", "recipe.json", "log_history.csv", "data.json", "splits.csv"
HUB_DATA = (DATA, SPLITS, "skipped.csv", "conflicts.csv")  # below `local/` in the run folder
# What a run goes on from. Trainer writes training_args.bin beside it, a pickle that nothing here reads.
STATE = re.compile(
    r"checkpoints/(?P<stage>(?P<number>\d+)-[a-z0-9_]+)/checkpoint-(?P<step>\d+)/"
    rf"(?:{checkpoints.PARTS}|{re.escape(checkpoints.SEAL)})"
)
ASIDE = ".saving-"


@dataclass(frozen=True)
class CheckpointRepo:
    """A private repo of checkpoints as it was at `commit`, and the number of the run that may write to it.

    `begun`: what lies there is of this run already; `images` are the files that tell which images it learns from.
    """

    repo_id: str
    url: str
    commit: str
    files: Mapping[str, Any] = field(repr=False)  # a `RepoSibling` by path
    run: str = ""
    begun: bool = False
    images: tuple[str, ...] = ()

    @property
    def saved(self) -> set[str]:
        """Folders of the checkpoints in it, as in checkpoints/2-all/checkpoint-24."""
        return {name.rpartition("/")[0] for name in self.files if STATE.fullmatch(name)}

    @property
    def furthest(self) -> tuple[int, int]:
        """Stage, counted from 1, and step of the newest of them; zeros if there is none."""
        found = [STATE.fullmatch(name) for name in self.files]
        return max(((int(each["number"]), int(each["step"])) for each in found if each), default=(0, 0))

    def begin(self, run: RunFolder) -> None:
        """Commit what a run begins with, once; that proves, before training, that checkpoints will be taken.

        Raises:
            UserError: the Hub does not take it.
        """
        if self.begun:
            return
        images: dict[str, Path | bytes] = (
            {SPLITS: _contents(run)}
            if "data_dir" in read_json(run.data)
            else {path.name: path for name in HUB_DATA if (path := run.data.with_name(name)).is_file()}
        )
        # The names as well: of a run that never saved a checkpoint other files may lie there.
        files = {RUN: _json({"run": self.run, "images": [*images]}), RECIPE: run.recipe, **images}
        with in_words(self.repo_id, UserError, "no checkpoint could be saved there", FLAG):
            self._add_surely(files, "The run begins")

    def claim(self, run: RunFolder) -> None:
        """Let the run folder remember which repo is its own."""
        write_json({"repo_id": self.repo_id, "run": self.run}, run.checkpoint_repo)

    def add(self, files: Mapping[str, Path | bytes], message: str) -> None:
        """One commit."""
        from huggingface_hub import CommitOperationAdd, HfApi

        if found := with_token(files):
            raise UserError(f"'{self.repo_id}': {found[0]} holds what looks like a token, and was not sent")
        added = [
            CommitOperationAdd(name, content if isinstance(content, bytes) else str(content))
            for name, content in files.items()
        ]
        HfApi().create_commit(self.repo_id, added, commit_message=message)

    def _add_surely(self, files: Mapping[str, Path | bytes], message: str) -> None:
        """One commit, which nobody tries again later: here, then, if it is not there and the trouble may pass."""
        from huggingface_hub.errors import HTTPError

        from hub_utils.portable.patience import COMMANDS, may_pass

        for wait in (*COMMANDS.waits, None):
            try:
                return self.add(files, message)
            except (HTTPError, OSError) as error:
                if not changed(files, Repo(self.repo_id, info=info_of(self.repo_id))):
                    return  # only the answer was lost
                if wait is None or not may_pass(error):
                    raise
            time.sleep(wait)


def open_repo(asked: str, run: RunFolder, goes_on: bool) -> CheckpointRepo:
    """The repo for this run's checkpoints, made if need be; `asked` is NAME, OWNER/NAME or nothing.

    Raises:
        UserError: the Hub cannot be asked or refuses, or what is there is public, another run's or no such repo.
    """
    from huggingface_hub import HfApi

    mine = own(run) if goes_on else {}
    repo_id = _repo_id(asked or mine.get("repo_id", ""), run)
    with in_words(repo_id, UserError, flag=FLAG), contextlib.suppress(KeyError):  # as `make_repo`
        HfApi().create_repo(repo_id, private=True, exist_ok=True)
    repo = _look(repo_id)
    number = mine.get("run") or uuid.uuid4().hex
    repo = replace(repo, run=number, begun=repo.run == number)
    if repo.saved and not repo.begun:
        raise UserError(
            f"'{repo_id}' holds the checkpoints of another run: --resume {repo_id} goes on with that one, {FLAG} with "
            "another NAME keeps both"
        )
    _check_not_behind(repo, run)
    return repo


def find_repo(asked: str, run: RunFolder, goes_on: bool) -> CheckpointRepo:
    """The repo from which `--resume` goes on, with the number of its run.

    Raises:
        UserError: there is none, or the run folder holds another run, or this one less far.
    """
    repo_id = _repo_id(asked, run, "--resume")
    repo = _look(repo_id)
    if not repo.run:
        raise UserError(f"'{repo_id}' holds no checkpoints of a run; --resume takes what {FLAG} named when it began")
    if goes_on:
        if own(run).get("run") != repo.run:
            raise UserError(
                f"'{run.path}' holds another run than '{repo_id}'; choose another --output_dir, or --resume without a "
                "name goes on with the one that is there"
            )
        _check_not_behind(repo, run)
    return repo


def _repo_id(asked: str, run: RunFolder, flag: str = FLAG) -> str:
    """OWNER/NAME-checkpoints."""
    asked = asked or run.path.resolve().name
    return full_name(asked.removesuffix(SUFFIX) + SUFFIX, "", account(UserError), UserError, flag)


def _look(repo_id: str) -> CheckpointRepo:
    """What is there now.

    Raises:
        UserError: it cannot be seen, or by everybody, or is something else.
    """
    with in_words(repo_id, UserError, flag=FLAG):
        found = Repo(repo_id, info=info_of(repo_id))
    if not found.info.private:
        raise UserError(
            f"'{repo_id}' is public, and checkpoints are not for everybody: make it private at {found.url}/settings, "
            f"or choose another NAME with {FLAG}"
        )
    if RUN not in found.files and found.files.keys() - {"README.md"}:
        raise UserError(f"'{repo_id}' is there already and holds no checkpoints; choose another NAME with {FLAG}")
    repo = CheckpointRepo(repo_id, found.url, found.head, found.files)
    return _with_run(repo) if RUN in repo.files else repo


def _with_run(repo: CheckpointRepo) -> CheckpointRepo:
    """With what the repo says of the run that has begun there.

    Raises:
        UserError: it cannot be read.
    """
    from huggingface_hub import HfApi

    with in_words(repo.repo_id, UserError, flag=FLAG):
        path = HfApi().hf_hub_download(repo.repo_id, RUN, revision=repo.commit)
    try:
        told = json.loads(Path(path).read_text(encoding="utf-8"))
        images = tuple(name for name in HUB_DATA if name in told["images"] and name in repo.files)
        return replace(repo, run=str(told["run"]), begun=True, images=images)
    except (ValueError, LookupError, TypeError) as error:
        raise UserError(f"'{repo.repo_id}': its {RUN} is none of ours; choose another NAME with {FLAG}") from error


def own(run: RunFolder) -> dict[str, Any]:
    """What the run folder remembers of its repo."""
    return read_json(run.checkpoint_repo) if run.checkpoint_repo.is_file() else {}


def _check_not_behind(repo: CheckpointRepo, run: RunFolder) -> None:
    """Refuse to go on from a checkpoint while the Hub has a later one of the same run.

    Raises:
        UserError: it has.
    """
    stages = [path for path in (run.path / "checkpoints").glob("*-*") if path.is_dir()]
    found = {int(path.name.split("-")[0]): checkpoints.newest_checkpoint(path)[0] for path in stages}
    here = max(((number, checkpoints.step_of(path)) for number, path in found.items() if path), default=(0, 0))
    if here < repo.furthest:
        raise UserError(
            f"'{repo.repo_id}' is further than '{run.path}': stage {repo.furthest[0]}, step {repo.furthest[1]} there, "
            f"stage {here[0]}, step {here[1]} here; --resume {repo.repo_id} goes on from there in another --output_dir"
        )


def _contents(run: RunFolder) -> bytes:
    """The splits of images on this machine by their content: nothing that names a file, a folder or a patient."""
    text = io.StringIO(newline="")
    writer = harmless_csv.Writer(text)
    writer.writerow(("sha256", "label", "split"))
    writer.writerows((row.sha256, row.label, row.split) for row in read_splits(run.splits))
    return text.getvalue().encode()


def _json(content: Any) -> bytes:
    return (json.dumps(content, indent=2) + "\n").encode()


@contextlib.contextmanager
def saving(repo: CheckpointRepo | None, run: RunFolder, say: Callable[[str], None]) -> Iterator[Saver | None]:
    """Within it checkpoints are saved to `repo`, if there is one; its end waits for the last of them.

    An error waits as well: where it comes from, the disk may be the next to go. So does a signal at which all processes
    left with a checkpoint, until a second one comes; any other does not.
    """
    if PartialState().is_main_process:
        for left in (run.path / "checkpoints").glob(f"{ASIDE}*"):  # by a run that was killed
            shutil.rmtree(left, ignore_errors=True)
    if repo is None:
        yield None
        return
    saver = Saver(repo, run, say)
    try:
        yield saver
    except Exception:
        saver.finish()
        raise
    except Stopped as stopped:
        if stopped.checkpoint is not None:
            saver.finish(put=True)
            PartialState().wait_for_everyone()  # a launcher ends the others once the first has left
        raise
    saver.finish()


class Saver(TrainerCallback):
    """Takes each checkpoint aside when it is written, and commits it while training goes on.

    One commit at a time; of checkpoints that wait for it the newest goes next, and what it needs goes with it. Trainer
    deletes old checkpoints meanwhile, and so each is linked under another name until it is on the Hub.
    """

    def __init__(self, repo: CheckpointRepo, run: RunFolder, say: Callable[[str], None]):
        self.repo = repo
        self.folder = run.path / "checkpoints"
        self.run = run
        self.say = say
        self.saved = repo.saved
        self.failed: str | None = None
        self._waiting: Path | None = None
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()
        if PartialState().is_main_process:
            self.put()  # what is there and was not saved: the Hub was down, or the run began without it

    def on_save(self, args, state, control, **kwargs):
        PartialState().wait_for_everyone()  # each process writes a file of its own into a checkpoint
        if state.is_world_process_zero:
            self.put()

    def put(self) -> None:
        """Take aside what is there now, to be committed next."""
        if not any(self.folder.glob(f"*/{checkpoints.PREFIX}*")):
            return
        try:
            aside = self._take_aside()
        except OSError as error:
            self._warn(f"cannot be taken aside ({error.strerror})")
            return
        with self._lock:
            late, self._waiting = self._waiting, aside
            if self._thread is None:
                # A daemon, for Ctrl-C ends at once: half a commit is none.
                self._thread = threading.Thread(target=self._work, daemon=True)
                self._thread.start()
        if late is not None:
            shutil.rmtree(late, ignore_errors=True)

    def finish(self, put: bool = False) -> None:
        """Wait for the last commit, try it once more if it failed, and say what is on the Hub; `put` what is new."""
        if not PartialState().is_main_process:
            return
        if put:
            self.put()
        self._wait()
        if self.failed is not None:
            self.put()
            self._wait()
        if self.failed is not None:
            self.say(
                f"warning    the last checkpoints are not on the Hub ({self.failed}); they are in {self.folder}, and "
                "the same command with --resume tries again"
            )
        elif self.saved:
            self.say(f"saved      checkpoints at {self.repo.url}; on any machine --resume {self.repo.repo_id} goes on")

    def _wait(self) -> None:
        thread = self._thread
        if thread is None:
            return
        with tqdm(desc="Saving the last checkpoint", bar_format="{desc}: {elapsed}", leave=False, disable=None) as bar:
            while thread.is_alive():
                thread.join(0.5)
                bar.update()

    def _work(self) -> None:
        """In the background: commit what waits until nothing does."""
        from huggingface_hub.utils import disable_progress_bars

        disable_progress_bars()  # they would be drawn over training's own
        while True:
            with self._lock:
                aside, self._waiting = self._waiting, None
                if aside is None:
                    self._thread = None
                    return
            try:
                self._commit(aside)
                self.failed = None
            except Exception as error:  # whatever it is, training goes on
                self._warn(_briefly(error))
            finally:
                shutil.rmtree(aside, ignore_errors=True)

    def _warn(self, reason: str) -> None:
        if self.failed is None:
            tqdm.write(
                f"warning    checkpoints: the newest is not in {self.repo.repo_id} ({reason}); training goes on, the "
                "next one tries again"
            )
        self.failed = reason

    def _take_aside(self) -> Path:
        """A folder laid out as the run folder, with all that is needed to go on from now."""
        aside = Path(tempfile.mkdtemp(prefix=ASIDE, dir=self.folder))
        try:
            for path in self.folder.glob(f"*/{checkpoints.PREFIX}*/*"):
                name = path.relative_to(self.run.path).as_posix()
                if STATE.fullmatch(name):
                    (aside / name).parent.mkdir(parents=True, exist_ok=True)
                    _link(path, aside / name)
            if self.run.history.is_file():
                shutil.copyfile(self.run.history, aside / HISTORY)
        except OSError:
            shutil.rmtree(aside, ignore_errors=True)
            raise
        return aside

    def _commit(self, aside: Path) -> None:
        """Commit the newest checkpoint of each stage and the best one it points to, if they are not there yet."""
        needed: dict[str, Path] = {}
        for stage in sorted((aside / "checkpoints").iterdir(), key=lambda path: int(path.name.split("-")[0])):
            if all(self._name(each, aside) in self.saved for each in stage.iterdir()):
                continue
            newest, _ = checkpoints.newest_checkpoint(stage)
            if newest is not None:
                both = (newest, checkpoints.result_of(newest, restore_best=True))
                needed |= {self._name(each, aside): each for each in both}
        needed = {name: path for name, path in needed.items() if name not in self.saved}
        if not needed:
            return
        files: dict[str, Path | bytes] = {
            f"{name}/{each.name}": _without_path(each) if each.name == checkpoints.STATE else each
            for name, path in needed.items()
            for each in sorted(path.iterdir())
        }
        if (aside / HISTORY).is_file():
            files[HISTORY] = aside / HISTORY
        self.repo.add(files, ", ".join(name.removeprefix("checkpoints/") for name in needed))
        self.saved |= needed.keys()

    def _name(self, checkpoint: Path, aside: Path) -> str:
        return checkpoint.relative_to(aside).as_posix()


def _link(path: Path, target: Path) -> None:
    """A second name for a file, or a copy where the disk knows no such thing."""
    try:
        os.link(path, target)
    except OSError:
        shutil.copyfile(path, target)


def _without_path(state: Path) -> Path | bytes:
    """Trainer's state without the path of the best checkpoint, which old ones have; it is found by its step."""
    content = json.loads(state.read_text(encoding="utf-8"))
    return state if content["best_model_checkpoint"] is None else _json({**content, "best_model_checkpoint": None})


def _briefly(error: Exception) -> str:
    """What went wrong, without the next step: there is nobody to take one."""
    reason = why(error)
    return without_token(first_line(error) if reason is None else reason.partition("; ")[0])
