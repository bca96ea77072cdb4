"""The test set-up itself: no token, nobody to talk to, and caches of its own."""

import os
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from huggingface_hub import HfApi, constants, get_token


def test_no_token_is_in_reach():
    assert get_token() is None


def test_the_hub_is_an_address_where_nobody_listens():
    assert constants.ENDPOINT == "http://127.0.0.1:9"
    with pytest.raises(OSError), socket.create_connection(("127.0.0.1", 9), timeout=1):
        pass
    with pytest.raises(Exception, match="refused"):
        HfApi().model_info("microsoft/resnet-50")


def test_the_caches_are_a_new_folder_and_not_the_developers():
    home = Path(constants.HF_HOME)
    assert home.parent == Path(tempfile.gettempdir()) and home.name.startswith("tests-cache-")
    assert Path(constants.HF_HUB_CACHE).is_relative_to(home)
    assert Path(os.environ["MPLCONFIGDIR"]).is_relative_to(home)


def test_processes_that_tests_start_inherit_the_set_up():
    code = "from huggingface_hub import constants, get_token; print(constants.ENDPOINT, constants.HF_HOME, get_token())"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert answer == ["http://127.0.0.1:9", constants.HF_HOME, "None"]
