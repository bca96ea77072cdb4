"""A Space on the Hub: what it is told, and whether it runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import islice
from time import monotonic, sleep
from typing import Any

from tqdm.auto import tqdm

from hub_utils.portable.command import UserError
from hub_utils.portable.hub import in_words
from hub_utils.portable.repo import Repo, make_repo
from hub_utils.portable.tokens import without_token

PATIENCE = 1800.0  # seconds in which a Space must have come up; torch alone takes minutes to install
EVERY = 2.0  # seconds between two questions
ATTEMPTS = 5  # questions in a row that the Hub may leave unanswered
GRACE = 60.0  # seconds for which an answer may still be about what was there before the commit
TOLD = 30  # last lines of a log
MOST = 100_000  # lines of a log that are looked at
FREE = (
    "an account that does not pay may host two Gradio Spaces, on ZeroGPU: --hardware zero-a10g; "
    "`python -m hub_utils.space suite` shows all models in one"
)


def make_space(repo: Repo, hardware: str | None) -> Repo:
    """The Space, which is made if there is none yet.

    Raises:
        UserError: the Hub does not make it.
    """
    from huggingface_hub.errors import HfHubHTTPError

    try:
        return make_repo(repo, space_sdk="gradio", space_hardware=hardware)
    except UserError as error:
        cause = error.__cause__
        if isinstance(cause, HfHubHTTPError) and cause.response.status_code == 402:
            raise UserError(f"'{repo.repo_id}': the Hub wants it to be paid for (HTTP 402); {FREE}") from error
        raise


def set_up(repo: Repo, variables: Mapping[str, str], secrets: Mapping[str, str], hardware: str | None) -> list[str]:
    """Give the Space its variables, secrets and hardware, and say what was changed; no value of a secret.

    What is there and the same is left alone, for each change starts the Space anew; secrets cannot be compared.

    Raises:
        UserError: the Hub does not take them.
    """
    from huggingface_hub import HfApi

    api, done = HfApi(), []
    with in_words(f"the settings of '{repo.repo_id}'", state="no file was sent, and the same command goes on"):
        there = {key: each.value for key, each in api.get_space_variables(repo.repo_id).items()} if variables else {}
        for key, value in variables.items():
            if there.get(key) != value:
                api.add_space_variable(repo.repo_id, key, value)
                done.append(f"variable {key}={value}")
        for key, value in secrets.items():
            api.add_space_secret(repo.repo_id, key, value)
            done.append(f"secret {key}")
        if hardware and api.get_space_runtime(repo.repo_id).requested_hardware != hardware:
            api.request_space_hardware(repo.repo_id, hardware)
            done.append(f"hardware {hardware}")
    return done


def has_secret(repo: Repo, name: str) -> bool:
    """Whether the Space, which may not be there yet, has a secret of this name."""
    from huggingface_hub import HfApi

    if repo.info is None:
        return False
    with in_words(f"the secrets of '{repo.repo_id}'", state="nothing has changed on the Hub"):
        return name in HfApi().get_space_secrets(repo.repo_id)


def wait(repo: Repo, sha: str, is_new: bool, is_set: bool, say: Callable[[str], None]) -> str:
    """Wait until the Space runs the commit `sha`, and return its stage; if it does not, say the last lines of its log.

    With `is_new`, or if its settings were changed, `is_set`, it is started anew, and what the Hub says at first may be
    about what was there before. One that nobody changed may sleep: a visit wakes it.

    Raises:
        UserError: it was not built, does not run, or not in time.
    """
    stage = _last_stage(repo, sha, is_new, is_set)
    if stage == "RUNNING" or (stage == "SLEEPING" and not (is_new or is_set)):
        return stage
    if stage == "DELETING":
        raise UserError(
            f"'{repo.repo_id}' is being deleted on the Hub; once it is gone the same command makes it anew, or "
            "--repo_id OWNER/NAME for another Space"
        )
    if stage == "SLEEPING":
        raise UserError(
            f"all files are on the Hub, as {sha}, but '{repo.repo_id}' is SLEEPING: a visit to {repo.url} wakes it, "
            "and the same command waits until it runs"
        )
    built = stage not in ("BUILD_ERROR", "CONFIG_ERROR", "NO_APP_FILE")
    if built and stage != "RUNTIME_ERROR":
        raise UserError(
            f"all files are on the Hub, as {sha}, but '{repo.repo_id}' is {stage}: {repo.url}/settings starts it again"
        )
    for line in _log(repo, build=not built):
        say(f"  {without_token(line.rstrip())}")
    raise UserError(
        f"all files are on the Hub, as {sha}, but '{repo.repo_id}' does not run ({stage}): see above, and {repo.url}; "
        f"{repo.url}/commits/main has the revisions before"
    )


def _last_stage(repo: Repo, sha: str, is_new: bool, is_set: bool) -> str:
    """What becomes of it once it is neither being built nor started."""
    start, believed, failures = monotonic(), not (is_new or is_set), 0
    there = f"all files are on the Hub, as {sha}, and the Space goes on by itself: {repo.url}"
    line = "{desc}: {elapsed}{postfix}"
    try:
        with tqdm(desc="Waiting for the Space", bar_format=line, leave=False, disable=None) as bar:
            while True:
                try:
                    runtime, failures = _runtime(repo, there), 0
                except UserError:
                    failures += 1  # in half an hour a Hub may well fail once
                    if failures == ATTEMPTS:
                        raise
                    sleep(EVERY)
                    continue
                bar.set_postfix_str(runtime.stage)
                waited = monotonic() - start
                on_its_way = runtime.stage.endswith(("BUILDING", "APP_STARTING"))
                is_it = is_new and runtime.raw.get("sha") == sha  # and was set up before it was committed
                believed = believed or on_its_way or is_it or waited > GRACE
                if believed and not on_its_way:
                    return runtime.stage
                if waited > PATIENCE:
                    raise UserError(f"'{repo.repo_id}' is {runtime.stage} since {waited:.0f} s; {there}")
                sleep(EVERY)
    except KeyboardInterrupt as error:
        raise UserError(f"interrupted; {there}") from error


def _runtime(repo: Repo, state: str) -> Any:
    from huggingface_hub import HfApi

    with in_words(f"'{repo.repo_id}'", state=state):
        return HfApi().get_space_runtime(repo.repo_id)


def _log(repo: Repo, build: bool) -> list[str]:
    """The last lines; none if the Hub does not tell them."""
    from huggingface_hub import HfApi

    try:
        with in_words(f"the log of '{repo.repo_id}'"):
            lines: list[Any] = list(islice(HfApi().fetch_space_logs(repo.repo_id, build=build), MOST))
    except UserError as error:
        return [f"(no log: {error})"]
    return "".join(each if each.endswith("\n") else f"{each}\n" for each in lines).splitlines()[-TOLD:]
