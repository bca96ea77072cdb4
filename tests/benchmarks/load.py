"""A page under load: many clients at once, each with a picture of its own whose answer is known beforehand.

python tests/benchmarks/load.py [RUN] [--clients 200] [--seconds 120] [--soak REQUESTS] [--json reports/load.json]

A page is started by itself, and asked as browsers and programs ask it, over HTTP: the page's own event, /predict, and
now and then /predict_many. Each answer must be the client's own, or a sentence that the page is busy within 10 seconds.
With --soak so many requests are made instead, by a few clients, and its memory must stay flat. Without RUN a network
that reads digits is trained for it, in a few seconds.
"""

import argparse
import asyncio
import io
import json
import os
import random
import re
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import httpx
import numpy as np
import psutil
from arguments import folder, json_file, positive
from machine import facts
from PIL import Image
from table import Row, print_rows, write_rows

ROOT = Path(__file__).parents[2]
APP = """
import os, sys
os.environ["DEMO_MODEL"] = sys.argv[2]
from hub_utils.portable.demo import build_demo
demo = build_demo("digits")
demo.launch(server_port=int(sys.argv[1]), server_name="127.0.0.1", quiet=True)
"""
KINDS = {"page": 0.47, "predict": 0.48, "predict_many": 0.05}  # of questions, and how often each is asked
SOONEST, LATEST = 10.0, 30.0  # seconds in which a busy page has said so; after which an answer is lost
CLOSE = 0.002  # in probability: what is no further away is the same answer; no two pictures' are as close as twice that
KEPT = 25.0  # MB that the memory may grow in the second half of a soak


@dataclass
class Asked:
    """One question: when it was asked, in seconds from the start, how long it took, and what came of it."""

    kind: str
    outcome: str  # own, busy, swapped, wrong, lost or error
    at: float
    seconds: float
    said: str = ""


@dataclass
class Server:
    """A page that runs, and what it took of the machine as time went by."""

    process: psutil.Process
    url: str
    log: IO[bytes]
    samples: list[dict[str, float]] = field(default_factory=list)

    def said(self) -> str:
        """All that it printed."""
        self.log.seek(0)
        return self.log.read().decode(errors="replace")

    def sample(self, asked: int) -> None:
        """Memory in MB, threads, and open files."""
        with self.process.oneshot():
            files = self.process.num_fds() if hasattr(self.process, "num_fds") else self.process.num_handles()
            rss, threads = self.process.memory_info().rss / 1e6, self.process.num_threads()
        self.samples.append({"asked": asked, "memory": round(rss, 1), "threads": threads, "files": files})


def pictures_of(model: Path, count: int) -> list[tuple[bytes, np.ndarray]]:
    """So many PNGs, and what the model says of each, (classes,), in the order of its labels; all told apart."""
    from hub_utils.portable.predictor import load_predictor

    predictor, found, known = load_predictor(model), [], np.empty((0, 0))
    for seed in range(20 * count + 100):
        draw = np.random.default_rng(seed)
        coarse = Image.fromarray(draw.integers(0, 256, (5, 5, 3), dtype=np.uint8))
        image = coarse.resize((64, 64), Image.Resampling.BICUBIC)
        (answer,) = predictor([image])
        share = answer.probabilities[None]
        if known.size and np.abs(known - share).max(axis=1).min() < 2.5 * CLOSE:
            continue
        known = share if not known.size else np.concatenate([known, share])
        file = io.BytesIO()
        image.save(file, "PNG")
        found.append((file.getvalue(), answer.probabilities))
        if len(found) == count:
            return found
    raise RuntimeError(f"the model tells {len(found)} of {count} pictures apart; take fewer clients, or another model")


def labels_of(model: Path) -> list[str]:
    from hub_utils.portable.predictor import load_predictor

    return load_predictor(model).labels


@contextmanager
def started(model: Path, code: str = APP, patience: float = 120, **variables: str) -> Iterator[Server]:
    """A page in a process of its own; it is there when it answers."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "GRADIO_ANALYTICS_ENABLED": "False", "HF_HUB_OFFLINE": "1"}
    environment |= variables
    with tempfile.TemporaryDirectory() as uploads, tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            [sys.executable, "-c", code, str(port), str(model.absolute())],
            cwd=uploads, env={**environment, "GRADIO_TEMP_DIR": uploads}, stdout=log, stderr=subprocess.STDOUT,
        )  # fmt: skip
        server = Server(psutil.Process(process.pid), f"http://127.0.0.1:{port}", log)
        until = time.monotonic() + patience
        try:
            while True:
                if process.poll() is not None or time.monotonic() > until:
                    raise RuntimeError(f"the page does not come up: {server.said()[-2000:]}")
                try:
                    httpx.get(f"{server.url}/config", timeout=10)
                    break
                except httpx.TransportError:
                    time.sleep(0.05)
            yield server
        finally:
            process.kill()
            process.wait()


class Client:
    """One visitor, who asks one question after the other."""

    def __init__(self, http: httpx.AsyncClient, number: int, labels: Sequence[str], known: np.ndarray, events: int):
        self.http, self.number, self.labels, self.known, self.page_event = http, number, labels, known, events

    async def upload(self, pictures: Sequence[bytes]) -> list[str]:
        files = [("files", (f"{uuid.uuid4().hex}.png", picture)) for picture in pictures]
        return (await self._post("upload", files=files)).json()

    async def _post(self, where: str, **what: Any) -> httpx.Response:
        answer = await self.http.post(f"/gradio_api/{where}", **what)
        if answer.status_code != 200:
            raise Refused(answer.status_code, answer.text)
        return answer

    async def predict(self, pictures: Sequence[bytes]) -> list[Any]:
        (path,) = await self.upload(pictures)
        return [_shares(each, self.labels) for each in await self._called("predict", {"path": path, **FILE})]

    async def predict_many(self, pictures: Sequence[bytes]) -> list[Any]:
        files = [{"path": path, **FILE} for path in await self.upload(pictures)]
        answers, _ = await self._called("predict_many", files)
        return [_shares(each, self.labels) for each in answers]

    async def _called(self, name: str, given: Any) -> Any:
        event = (await self._post(f"call/{name}", json={"data": [given]})).json()["event_id"]
        async with self.http.stream("GET", f"/gradio_api/call/{name}/{event}") as stream:
            kind = ""
            async for line in stream.aiter_lines():
                if line.startswith("event: "):
                    kind = line[7:]
                elif kind in ("complete", "error"):
                    data = json.loads(line[6:])
                    if kind == "error":
                        raise Refused(200, str(data and data["error"]))
                    return data
        raise Refused(200, "the stream ended without an answer")

    async def page(self, pictures: Sequence[bytes]) -> list[Any]:
        (path,) = await self.upload(pictures)
        session, turn = uuid.uuid4().hex, uuid.uuid4().hex
        event = {"turn": turn, "path": path}
        await self._post(
            "queue/join",
            json={"data": [], "event_data": event, "fn_index": self.page_event, "session_hash": session},
        )
        async with self.http.stream("GET", f"/gradio_api/queue/data?session_hash={session}") as stream:
            async for line in stream.aiter_lines():
                message = json.loads(line[6:]) if line.startswith("data: ") else {}
                if message.get("msg") == "process_completed":
                    drawn = message["output"]["data"][0] if message["success"] else ""
                    if f'data-turn="{turn}"' not in drawn or "problem" in drawn:
                        raise Refused(200, re.sub("<.*?>", "", drawn) or str(message["output"]))
                    said = re.findall(r'--share:([\d.]+)"[^>]*><span>(.*?)</span>', drawn)
                    return [_shares({"probabilities": {label: float(share) for share, label in said}}, self.labels)]
        raise Refused(200, "the stream ended without an answer")

    async def ask(self, kind: str, pictures: Sequence[bytes], whose: Sequence[int], began: float) -> Asked:
        """`whose` says which pictures of `known` these are."""
        start = time.perf_counter()
        try:
            async with asyncio.timeout(LATEST):
                told = await getattr(self, kind)(pictures)
            outcome, said = self._judged(told, whose), ""
        except Refused as refusal:
            outcome, said = ("busy" if "busy" in refusal.said else "error"), f"{refusal.status} {refusal.said}"[:200]
        except TimeoutError:
            outcome, said = "lost", f"no answer in {LATEST:.0f} s"
        except httpx.HTTPError as error:
            where = error.request.url.path.split("/")[2:4]
            outcome, said = "lost", f"{'/'.join(where)}: {type(error).__name__} {error}"[:200]
        return Asked(kind, outcome, start - began, time.perf_counter() - start, said)

    def _judged(self, told: Sequence[np.ndarray | str], whose: Sequence[int]) -> str:
        if len(told) != len(whose):
            return "wrong"
        for shares, own in zip(told, whose, strict=True):
            if isinstance(shares, str):
                return "error"
            away = np.abs(self.known - shares).max(axis=1)
            if away[own] > CLOSE:
                return "swapped" if away.min() <= CLOSE else "wrong"
        return "own"


FILE = {"meta": {"_type": "gradio.FileData"}}


class Refused(Exception):
    """The page says why there is no answer."""

    def __init__(self, status: int, said: str) -> None:
        super().__init__(said)
        self.status, self.said = status, said


def _shares(answer: dict[str, Any], labels: Sequence[str]) -> np.ndarray | str:
    if "probabilities" not in answer:
        return str(answer.get("error"))
    return np.array([answer["probabilities"].get(label, 0.0) for label in labels])


def event_of(config: dict[str, Any], name: str = "picture") -> int:
    """The number by which gradio knows a page's event."""
    return next(each["id"] for each in config["dependencies"] if any(target[1] == name for target in each["targets"]))


async def asked_at_once(
    server: Server,
    model: Path,
    clients: int,
    seconds: float = float("inf"),
    requests: float = float("inf"),
    every: float = 5.0,
    told: Callable[[int], None] = lambda asked: None,
) -> list[Asked]:
    """Let so many clients ask without a pause, until the time is over or so many questions were asked.

    Whoever hears that the page is busy comes again as the page's own script does: ever later, by lot.
    """
    pictures, labels = pictures_of(model, clients), labels_of(model)
    known = np.stack([share for _, share in pictures])
    found: list[Asked] = []

    def connected() -> httpx.AsyncClient:  # one for each: a pool of hundreds takes its time to find a free one
        # What the page is about to close is not used again: uvicorn closes after five seconds.
        limits = httpx.Limits(keepalive_expiry=2)
        return httpx.AsyncClient(base_url=server.url, timeout=LATEST, limits=limits, verify=False, trust_env=False)

    async with connected() as http:
        event = event_of((await http.get("/config")).json())
        await Client(http, 0, labels, known, event).ask("predict", [pictures[0][0]], [0], 0)  # it is loaded now
        began = time.perf_counter()
        server.sample(0)
        begun = 0

        async def visit(number: int) -> None:
            nonlocal begun
            lot, again = random.Random(number), 0
            async with connected() as http:
                client = Client(http, number, labels, known, event)
                while begun < requests and time.perf_counter() - began < seconds:
                    begun += 1
                    (kind,) = lot.choices(list(KINDS), list(KINDS.values()))
                    whose = [number] if kind != "predict_many" else [number, *lot.choices(range(clients), k=2)]
                    asked = await client.ask(kind, [pictures[each][0] for each in whose], whose, began)
                    found.append(asked)
                    again = 0 if asked.outcome == "own" else min(again + 1, 4)
                    if again:
                        await asyncio.sleep(2**again * lot.uniform(0.5, 1.5))

        async def watch() -> None:
            while True:
                await asyncio.sleep(every)
                server.sample(len(found))
                told(len(found))

        watching = asyncio.create_task(watch())
        await asyncio.gather(*(visit(number) for number in range(clients)))
        watching.cancel()
    await asyncio.sleep(1)
    server.sample(len(found))
    return found


def late(found: Sequence[Asked]) -> int:
    """How many heard neither their answer nor that the page is busy in `SOONEST` seconds."""
    return sum(each.seconds > SOONEST for each in found)


def table_of(found: Sequence[Asked], seconds: float) -> list[tuple[str, str]]:
    counts = Counter(each.outcome for each in found)
    answered = sorted(each.seconds for each in found if each.outcome == "own")
    busy = sorted(each.seconds for each in found if each.outcome == "busy")

    def at(times: Sequence[float], share: float) -> str:
        return f"{times[min(int(share * len(times)), len(times) - 1)]:.2f} s" if times else "none"

    kinds = ", ".join(f"{kind} {count:,}" for kind, count in Counter(each.kind for each in found).most_common())
    return [
        ("questions", f"{len(found):,} ({kinds})"),
        ("own answer", f"{counts['own']:,}, {counts['own'] / seconds:.1f} a second"),
        ("busy, in a sentence", f"{counts['busy']:,}"),
        *((name, f"{counts[name]:,}") for name in ("swapped", "wrong", "lost", "error")),
        (f"neither within {SOONEST:.0f} s", f"{late(found):,}"),
        ("answers: median, 99 of 100, slowest", ", ".join(at(answered, share) for share in (0.5, 0.99, 1))),
        ("busy: median, 99 of 100, slowest", ", ".join(at(busy, share) for share in (0.5, 0.99, 1))),
    ]


def rows_of(server: Server, found: Sequence[Asked], soak: bool, quick: bool) -> list[Row]:
    counts = Counter(each.outcome for each in found)
    bad = sum(counts[name] for name in ("swapped", "wrong", "lost", "error"))
    same = f"each of {counts['own']:,} answers is that of its own picture, as computed here" if not bad else ""
    said = next((each.said for each in found if each.outcome in ("lost", "error") and each.said), "")

    def row(what: str, ours: float, limit: float, unit: str) -> Row:
        met = "quick" if quick else ours <= limit
        return Row(what, ours, limit, unit, None, f"≤ {limit:g}", met, same or said, "limit")

    rows = [row("lost, swapped or wrong", bad, 0, "answers"), row("later than 10 s", late(found), 0, "answers")]
    if soak:
        samples = server.samples[len(server.samples) // 2 :]
        rows.append(row("memory in the second half", samples[-1]["memory"] - samples[0]["memory"], KEPT, "MB"))
    return rows


def parser() -> argparse.ArgumentParser:
    result = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    result.add_argument("run", type=folder, nargs="?", help="a run, or any model's folder (default: one of digits)")
    result.add_argument("--clients", type=positive, help="default: 200; 16 with --soak")
    result.add_argument("--seconds", type=positive, default=120, help="how long they ask")
    result.add_argument("--soak", type=positive, metavar="REQUESTS", help="ask so often instead, however long it takes")
    result.add_argument(
        "--json", type=json_file, metavar="FILE", help="reports/load.json or soak.json if nothing is said"
    )
    return result


def main() -> int:
    """The exit status is 0 if nothing was lost, and nobody waited too long."""
    known = parser().parse_args()
    clients = known.clients or (16 if known.soak else 200)
    path = known.json or json_file(f"reports/{'soak' if known.soak else 'load'}.json")
    quick = clients < 100 and known.seconds < 60 and not known.soak
    machine = facts()
    with tempfile.TemporaryDirectory() as made:
        model = known.run
        if model is None:
            sys.path.append(str(ROOT / "tests"))
            from digits_network import save_digits_network

            model = Path(made, "digits")
            save_digits_network(model)
        how = {"requests": known.soak} if known.soak else {"seconds": known.seconds}
        with started(model) as server:
            began = time.perf_counter()
            found = asyncio.run(asked_at_once(server, model, clients, **how, told=say))
            seconds = time.perf_counter() - began
    table = table_of(found, seconds)
    for sample, when in ((server.samples[0], "before"), (server.samples[-1], "after")):
        table.append((f"the page {when}", "{memory:.0f} MB, {threads} threads, {files} open files".format(**sample)))
    for what, value in table:
        print(f"{what:<40}{value}")
    print()
    rows = rows_of(server, found, bool(known.soak), quick)
    print_rows(rows)
    latencies = {kind: [round(each.seconds, 3) for each in found if each.kind == kind] for kind in KINDS}
    middle = {kind: round(statistics.median(times), 3) for kind, times in latencies.items() if times}
    said = Counter(each.said for each in found if each.outcome not in ("own", "busy"))
    measured = {
        "clients": clients, "seconds": round(seconds, 1), "table": dict(table), "medians": middle,
        "samples": server.samples, "said": dict(said.most_common(20)),
    }  # fmt: skip
    write_rows(path, rows, machine, measured)
    print(f"\nwrote {path}")
    return int(any(row.met is False for row in rows))


def say(asked: int) -> None:
    print(f"load · {asked:,} questions", file=sys.stderr, end="\r", flush=True)


if __name__ == "__main__":
    sys.exit(main())
