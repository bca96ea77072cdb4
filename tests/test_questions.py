"""What is said of a question that is none, and of one that finds the disk full; to whoever asks, and in the log."""

import asyncio
import errno
import json

import pytest

from hub_utils.portable.questions import NO_QUESTION, NO_ROOM, Questions

ASK = "/gradio_api/call/predict"


def asked(error: Exception, path: str = ASK) -> tuple[int, dict, dict]:
    sent = []

    async def app(scope, receive, send):
        raise error

    async def send(message):
        sent.append(message)

    asyncio.run(Questions(app)({"type": "http", "method": "POST", "path": path}, None, send))
    return sent[0]["status"], dict(sent[0]["headers"]), json.loads(sent[1]["body"])


def test_what_is_no_question_is_logged_with_route_and_reason_in_one_line(caplog):
    code, _, said = asked(ValueError("no \x1b[31mnumber\nERROR: forged" + "x" * 1000))
    assert (code, said["detail"]) == (400, NO_QUESTION)
    (line,) = caplog.messages
    assert f"no question to {ASK}: ValueError: no  [31mnumber ERROR" in line and len(line) < 300


@pytest.mark.parametrize("path", [ASK, "/gradio_api/upload"])
def test_a_full_disk_is_no_fault_of_the_question(path, caplog):
    code, headers, said = asked(OSError(errno.ENOSPC, "No space left on device"), path)
    assert (code, said["detail"]) == (503, NO_ROOM) and headers[b"retry-after"] == b"60"
    (record,) = caplog.records
    assert record.levelname == "ERROR" and path in record.message and "No space" in record.message
