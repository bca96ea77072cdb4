"""Tokens stay out of whatever is shown: sentences, logs and tracebacks, which people send to each other.

What is pushed or bundled is searched by hub_utils/scan.py, and refused; here one is replaced, since the line is wanted.
"""

from __future__ import annotations

import logging
import os
import re
import sys
import threading
import traceback
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

SHORTEST = 8  # letters: a shorter value of a variable may be any word
SECRET = re.compile(
    r"(TOKEN|SECRET|PASSWORD|PASSWD|API_?KEY|ACCESS_?KEY|_KEY|CREDENTIALS?)$", re.IGNORECASE
)  # variables
FORMS = re.compile(
    r"\b(?P<hub>hf|api_org|hf_oauth|hf_jwt)_[A-Za-z0-9-]*[A-Za-z0-9_-]{8,}"
    r"|\bKGAT_[A-Za-z0-9]{8,}|\bgh[pousr]_[A-Za-z0-9]{20,}|\bgithub_pat_\w{20,}|\bA(?:KIA|SIA)[A-Z0-9]{16}\b"
    r"|(?<=[Bb]earer )[\w.~+/=-]{8,}|(?<=://)[^\s/:@\"']{1,99}:[^\s/@\"']{1,99}(?=@)"
    r"|(?i:(?<=signature=)[0-9a-z%+/_-]{16,})"
)
TEXTS = (".md", ".json", ".csv", ".txt")
OURS = re.compile(r"hf_(transfer|xet|hub|api|file_system|raise_for_status|folder|argparser)\b")  # names in libraries


def without_token(text: str) -> str:
    """`text` without what looks like a token, and without what the environment holds under the name of one."""
    text = FORMS.sub(_hidden, text)
    for name, value in os.environ.items():
        if len(value.strip()) >= SHORTEST and SECRET.search(name):
            text = text.replace(value.strip(), "…")
    return text


def with_token(files: Mapping[str, bytes | Path]) -> list[str]:
    """Those of `files`, by their names, that are text and hold what looks like a token."""
    found = []
    for name, content in files.items():
        if name.endswith(TEXTS):
            data = content if isinstance(content, bytes) else content.read_bytes()
            if any(not OURS.match(each[0]) for each in FORMS.finditer(data.decode(errors="replace"))):
                found.append(name)
    return found


def _hidden(found: re.Match) -> str:
    if OURS.match(found[0]):
        return found[0]
    return f"{found['hub']}_…" if found["hub"] else "…"


def keep_tokens_quiet() -> None:
    """From now on no token stands in this process's logs, nor in the traceback of an error that nobody foresaw."""
    if getattr(logging.getLogRecordFactory(), "quiet", False):
        return
    logging.setLogRecordFactory(_quiet(logging.getLogRecordFactory()))
    sys.excepthook = _print_traceback
    threading.excepthook = lambda how: _print_traceback(how.exc_type, how.exc_value, how.exc_traceback)


def _quiet(make: Any) -> Any:
    def quietly(*args: Any, **how: Any) -> logging.LogRecord:
        record = make(*args, **how)
        try:
            told = record.getMessage()
        except Exception:  # of a broken one `logging` itself says so
            return record
        if (shown := without_token(told)) != told:
            record.msg, record.args = shown, ()
        if record.exc_info and record.exc_info[0]:  # which formatters take as it is
            record.exc_text = without_token("".join(traceback.format_exception(*record.exc_info)).rstrip("\n"))
        return record

    quietly.quiet = True
    return quietly


def _print_traceback(kind: type[BaseException], error: BaseException | None, where: TracebackType | None) -> None:
    if sys.stderr is None or (threading.current_thread() is not threading.main_thread() and kind is SystemExit):
        return
    sys.stderr.write(without_token("".join(traceback.format_exception(kind, error, where))))
