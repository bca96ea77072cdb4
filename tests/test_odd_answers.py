"""What answers like no Hub, as a page to log in does, is told in one sentence by whoever asks."""

import json

import pytest
from huggingface_hub import close_session, constants

from hub_utils import verify
from hub_utils.portable import patience
from hub_utils.portable.command import UserError
from hub_utils.portable.hub import Account, account, in_words
from hub_utils.portable.patience import Patience
from hub_utils.portable.predictor import load_predictor
from hub_utils.portable.repo import find_repo, make_repo
from hub_utils.wanted import of_repo
from training.data.source import HubDataset
from training.fitting import checkpoint_repo
from training.fitting.network import build_network
from training.recipe import Linear, Recipe, Stage
from training.recipe import UserError as TrainingError
from training.results.batch import load_model

RECIPE = Recipe(name="a", title="A", base_model="alice/tiny", head=(Linear(),), stages=(Stage(name="head"),))
ASKS = {
    "account": account,
    "repo": lambda: find_repo("alice/tiny", Account("alice")),
    "verify": lambda: verify.verify("alice/tiny"),
    "predict": lambda: load_model("alice/tiny"),
    "page": lambda: load_predictor("alice/tiny"),
    "space": lambda: of_repo("tiny", "alice/tiny", None, None),
    "checkpoints": lambda: checkpoint_repo._look("alice/tiny-checkpoints"),
    "train --dataset": lambda: HubDataset("alice/tiny").pinned(),
    "load_dataset": lambda: HubDataset("alice/tiny")._load(),
    "train --base_model": lambda: build_network(RECIPE, ["a", "b"]),
}


@pytest.fixture
def hub(hub, monkeypatch, tmp_path):
    """The one that the client asks if nobody says another."""
    monkeypatch.setattr(patience, "_now", Patience(waits=(), silence=5))
    monkeypatch.setattr(constants, "ENDPOINT", hub.url)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", hub.url + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("datasets.config.HF_ENDPOINT", hub.url)
    monkeypatch.setenv("HF_TOKEN", "hf_alice")
    close_session()
    yield hub
    close_session()


@pytest.mark.parametrize("how", ["empty", "portal", 302])
@pytest.mark.parametrize("who", ASKS)
def test_whoever_asks_says_that_it_is_not_the_hub(hub, who, how):
    hub.fail(".*", how, times=99)
    with pytest.raises((UserError, TrainingError)) as told:
        ASKS[who]()
    said = str(told.value)
    assert "\n" not in said and "hf_alice" not in said
    assert f"what answers at {hub.url} is not the Hub, or a login page stands between" in said


def test_a_fault_of_our_own_is_not_blamed_on_the_hub():
    for body in (lambda: {}["name"], lambda: json.loads("<html>"), lambda: None.name):
        with pytest.raises((KeyError, ValueError, AttributeError)), in_words("'alice/tiny'"):
            body()


@pytest.mark.parametrize("how", [409, "empty"])
def test_a_repo_that_is_said_to_be_there_is_looked_for(hub, how):
    repo = find_repo("alice/new", Account("alice"))
    hub.fail("POST /api/repos/create", how)
    with pytest.raises(UserError, match=r"'alice/new': not on the Hub.*; no file was sent"):
        make_repo(repo)
    hub.add("alice/new", {"README.md": b"# New\n"}, private=True)
    hub.fail("POST /api/repos/create", how)
    assert make_repo(repo).head == hub.commits("alice/new")[-1].sha
