"""How the loopback Hub has Spaces: their variables, secrets, hardware and logs, and what they run.

A Space goes through the stages that a test gives it, or, with `hub.runs_spaces`, runs the files that were committed to
it: its requirements are looked at, and then `python app.py` answers at `Space.url`.
"""

import json
import re
import socket
import subprocess
import sys
import time
import urllib.request
from copy import deepcopy
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from threading import Thread

from loopback_http import HubError, route

SPACE = r"/api/spaces/(?P<repo_id>[^/]+/[^/]+)"
FREE = "zero-a10g"  # the one hardware of accounts that do not pay
UPDATED = "2026-11-20T12:00:00.000Z"


@dataclass
class Space:
    """`stages` are told in turn, one a question, and the last for ever; `build` and `run` are the lines of its logs."""

    hardware: str | None = None
    variables: dict[str, str] = field(default_factory=dict)
    secrets: dict[str, str] = field(default_factory=dict)
    stages: list[str] = field(default_factory=lambda: ["NO_APP_FILE"])
    build: list[str] = field(default_factory=list)
    run: list[str] = field(default_factory=list)
    starts: int = 0
    sha: str | None = None  # of the commit that it runs
    url: str | None = None
    process: subprocess.Popen | None = None

    def stop(self) -> None:
        if self.process:
            self.process.kill()
            self.process.wait()
            self.process = None

    def runtime(self) -> dict:
        stage = self.stages.pop(0) if len(self.stages) > 1 else self.stages[0]
        current = self.hardware or "cpu-basic"
        told = {"stage": stage, "hardware": {"current": None if stage == "BUILDING" else current, "requested": current}}
        told |= {"gcTimeout": 172800, "storage": None, "devMode": False, "replicas": {"requested": 1}}
        return told | ({"sha": self.sha} if self.sha else {}) | {"domains": [{"domain": self.url}] if self.url else []}


class Spaces:
    """Answers of `loopback_hub._Handler`."""

    def space(self, repo_id: str, to_write: bool = False) -> Space:
        self.find("spaces", repo_id, to_write=to_write)
        return self.hub.spaces[repo_id]

    def make_space(self, repo_id: str, asked: dict) -> None:
        if asked.get("sdk") not in ("gradio", "docker", "static"):
            raise HubError(400, "Invalid space sdk")
        space = deepcopy(self.hub.next_space)
        space.hardware = asked.get("hardware")
        for kind in ("variables", "secrets"):
            getattr(space, kind).update({each["key"]: each["value"] for each in asked.get(kind, ())})
        if self.user() in self.hub.free_accounts and asked["sdk"] != "static" and space.hardware != FREE:
            raise HubError(402, "Free accounts host Gradio Spaces on ZeroGPU only. Subscribe to PRO for others.")
        self.hub.spaces[repo_id] = space

    def committed(self, repo_id: str, sha: str) -> None:
        """Start anew with what has been committed."""
        space = self.hub.spaces[repo_id]
        space.starts += 1
        if self.hub.runs_spaces:
            space.stop()
            space.stages = ["BUILDING"]
            Thread(target=_run, args=(self.hub, repo_id, sha), daemon=True).start()

    @route("GET", rf"{SPACE}/runtime")
    def runtime(self, repo_id: str) -> None:
        self.send_json(self.space(repo_id).runtime())

    @route("GET|POST|DELETE", rf"{SPACE}/variables")
    def variables(self, repo_id: str) -> None:
        variables = self.changed_by_request(repo_id, "variables")
        self.send_json({key: {"value": value, "updatedAt": UPDATED} for key, value in variables.items()})

    @route("GET|POST|DELETE", rf"{SPACE}/secrets")
    def secrets(self, repo_id: str) -> None:
        self.send_json({key: {"updatedAt": UPDATED} for key in self.changed_by_request(repo_id, "secrets")})

    def changed_by_request(self, repo_id: str, kind: str) -> dict[str, str]:
        values = getattr(self.space(repo_id, to_write=True), kind)
        if self.command == "POST":
            values[self.json()["key"]] = self.json()["value"]
        elif self.command == "DELETE":
            values.pop(self.json()["key"], None)
        return values

    @route("POST", rf"{SPACE}/hardware")
    def request_hardware(self, repo_id: str) -> None:
        space = self.space(repo_id, to_write=True)
        space.hardware = self.json()["flavor"]
        self.send_json(space.runtime())

    @route("GET", rf"{SPACE}/logs/(?P<kind>build|run)")
    def space_logs(self, repo_id: str, kind: str) -> None:
        lines = getattr(self.space(repo_id, to_write=True), kind)
        events = [f"data: {json.dumps({'data': line, 'timestamp': UPDATED})}\n\n" for line in lines]
        self.send_bytes("".join(["data:\n\n", *events]).encode(), 200, {"Content-Type": "text/event-stream"})


def _run(hub, repo_id: str, sha: str) -> None:
    """As the Hub does it: requirements, then `python app.py` in a folder of what was committed and nothing else."""
    space, folder = hub.spaces[repo_id], Path(hub.folder, "spaces", sha)
    for path, content in hub.files(repo_id, "space", sha).items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(content)
    for line in (folder / "requirements.txt").read_text().split():
        name, _, wanted = line.partition("==")
        space.build.append(f"Collecting {line}\n")
        if not _is_installed(name, wanted):
            space.build.append(f"ERROR: No matching distribution found for {line}\n")
            space.stages = ["BUILD_ERROR"]
            return
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = hub.environment(folder / ".home") | space.variables | space.secrets
    # What gradio sets on the real ones; there is no `-P`: a Space has its own folder on the path.
    environment |= {"GRADIO_SERVER_PORT": str(port), "PYTHONDONTWRITEBYTECODE": "1", "PYTHONUNBUFFERED": "1"}
    environment.pop("PYTHONPATH", None)
    space.stages = ["APP_STARTING"]
    space.process = process = subprocess.Popen(
        [sys.executable, "app.py"], cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    said = Thread(target=lambda: space.run.extend(line.decode() for line in process.stdout), daemon=True)
    said.start()
    while process.poll() is None:
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/config", timeout=5).close()
        except OSError:
            time.sleep(0.1)
            continue
        space.sha, space.url, space.stages = sha, f"http://127.0.0.1:{port}", ["RUNNING"]
        break
    process.wait()
    said.join()
    if space.process is process:  # and nobody stopped it
        space.stages = ["RUNTIME_ERROR"]


def _is_installed(name: str, wanted: str) -> bool:
    try:
        return re.sub(r"\+.*", "", version(name)) == wanted
    except PackageNotFoundError:
        return False
