"""The page against `gr.Interface` around a plain `pipeline`, and against a function that does nothing, over raw HTTP.

python tests/benchmarks/serving.py RUN [--rounds 3] [--requests 40] [--seconds 10] [--clients 16]

RUN is a run with an ONNX file whose images are a folder on this machine; photographs of its test split are sent. In
each round all servers are started in turn, asked about the same photographs in turn, and then loaded in turn. What is
said at the end are medians of the rounds, and the medians of each round's ratio to the plain `pipeline`.
"""

import argparse
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, field
from itertools import cycle, islice
from pathlib import Path

import psutil
import requests

ROOT = Path(__file__).parents[2]
# Each is started by itself: nothing of this file's is in its memory.
SERVERS = {
    "trivial": """
import sys
import gradio as gr
demo = gr.Interface(lambda path: {"a": 0.5, "b": 0.5}, gr.Image(type="filepath"), gr.Label(), api_name="predict")
demo.launch(server_port=int(sys.argv[1]), quiet=True)
""",
    "pipeline": """
import sys
import gradio as gr
from transformers import pipeline
ask = pipeline("image-classification", model=sys.argv[2], trust_remote_code=True)
def answer(image):
    return {each["label"]: each["score"] for each in ask(image)}
gr.Interface(answer, gr.Image(type="pil"), gr.Label(), api_name="predict").launch(
    server_port=int(sys.argv[1]), quiet=True
)
""",
    "page": """
import os, sys
os.environ["DEMO_MODEL"] = sys.argv[2]
from hub_utils.portable.demo import build_demo
build_demo(sys.argv[3]).launch(server_port=int(sys.argv[1]), quiet=True)
""",
}
FIGURES = {
    "median latency, ms": lambda figures: figures.latency * 1e3,
    "requests/s, all clients": lambda figures: figures.rate,
    "start to first answer, s": lambda figures: figures.start,
    "memory (RSS), MB": lambda figures: figures.memory / 1e6,
}


@dataclass
class Server:
    """A server that runs, and what was measured of it."""

    process: subprocess.Popen
    url: str
    start: float = 0.0  # seconds from the process' start to its first answer
    times: list[float] = field(default_factory=list)  # seconds, of one client's requests
    rate: float = 0.0  # answers a second to all clients at once
    memory: int = 0  # bytes, after all that

    @property
    def latency(self) -> float:
        return statistics.median(self.times)


def ask(session: requests.Session, url: str, photo: Path) -> str:
    """Upload a photograph, ask about it, and wait for the answer."""
    with photo.open("rb") as file:
        (path,) = session.post(f"{url}/upload", files={"files": (photo.name, file)}).json()
    question = {"data": [{"path": path, "meta": {"_type": "gradio.FileData"}}]}
    event = session.post(f"{url}/call/predict", json=question).json()["event_id"]
    answer = session.get(f"{url}/call/predict/{event}").text
    if not answer.startswith("event: complete"):
        raise RuntimeError(f"{url} answers {answer!r}")
    return answer


def start(code: str, run: Path, photo: Path) -> Server:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "GRADIO_ANALYTICS_ENABLED": "False", "HF_HUB_OFFLINE": "1"}
    began = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(port), str(run), run.name],
        cwd=tempfile.gettempdir(),
        env=environment,
        stdout=subprocess.DEVNULL,
    )
    server = Server(process, f"http://127.0.0.1:{port}/gradio_api")
    while True:
        try:
            ask(requests.Session(), server.url, photo)
            break
        except (requests.ConnectionError, requests.JSONDecodeError):
            if process.poll() is not None:
                raise RuntimeError("the server has ended") from None
            time.sleep(0.02)
    server.start = time.perf_counter() - began
    return server


def load(server: Server, photos: list[Path], clients: int, seconds: float) -> None:
    """Let so many clients ask without a pause; sets `rate`."""
    answered = [0] * clients
    end = time.perf_counter() + seconds

    def client(number: int) -> None:
        session = requests.Session()
        for photo in islice(cycle(photos), number, None):
            ask(session, server.url, photo)
            if time.perf_counter() > end:
                return
            answered[number] += 1

    threads = [threading.Thread(target=client, args=(number,)) for number in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    server.rate = sum(answered) / seconds


def one_round(run: Path, photos: list[Path], order: list[str], known: argparse.Namespace) -> dict[str, Server]:
    servers = {}
    try:
        for name in order:
            servers[name] = start(SERVERS[name], run, photos[0])
        sessions = {name: requests.Session() for name in order}
        for photo in islice(cycle(photos), known.requests):
            for name in order:
                began = time.perf_counter()
                ask(sessions[name], servers[name].url, photo)
                servers[name].times.append(time.perf_counter() - began)
        for name in order:
            load(servers[name], photos, known.clients, known.seconds)
            servers[name].memory = psutil.Process(servers[name].process.pid).memory_info().rss
    finally:
        for server in servers.values():
            server.process.kill()
            server.process.wait()
    return servers


def cost_of_maps(run: Path, photos: list[Path], precision: str) -> float:
    """What the network takes with its heat maps, by what it takes without: the median over photographs, in turn."""
    import onnx
    from PIL import Image

    from hub_utils.portable.network import Network
    from hub_utils.portable.preprocessing import preprocessing_of

    prepare = preprocessing_of(run)
    pixels = [prepare(Image.open(photo).convert("RGB")) for photo in photos]
    with tempfile.TemporaryDirectory() as folder:
        alone = Path(folder, "logits.onnx")
        onnx.utils.extract_model(run / "onnx" / "model.onnx", alone, ["pixel_values"], ["logits"])
        paths = run / "onnx" / "model.onnx", alone
        networks = [Network(path, pixels[0].shape, precision) for path in paths]
    times = [[], []]
    for number, each in enumerate(islice(cycle(pixels), 80)):
        for index in (0, 1) if number % 2 else (1, 0):
            began = time.perf_counter()
            network = networks[index]
            network._ask(network._quick or network._full, each)
            times[index].append(time.perf_counter() - began)
    return statistics.median(with_maps / alone for with_maps, alone in zip(*times, strict=True))


def test_photos(run: Path, count: int) -> list[Path]:
    """Photographs of the run's test split, from all over it."""
    from training.data.source import load_source
    from training.data.splits import read_splits
    from training.run_folder import RunFolder

    folder = RunFolder(run)
    rows = [row for row in read_splits(folder.splits) if row.split == "test"]
    source = load_source(folder.data)
    return [source.data_dir / row.path for row in rows[:: max(1, len(rows) // count)]][:count]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("run", type=Path)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--requests", type=int, default=40)
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--clients", type=int, default=16)
    known = parser.parse_args()
    run = known.run.resolve()
    photos = test_photos(run, 20)
    rounds = []
    names = list(SERVERS)
    for number in range(known.rounds):
        order = names[number % 3 :] + names[: number % 3]
        rounds.append(one_round(run, photos, order, known))
        said = {
            name: {figure: round(of(server), 1) for figure, of in FIGURES.items()}
            for name, server in rounds[-1].items()
        }
        print(json.dumps(said), flush=True)
    print(f"\n{'':<26}{'trivial':>10}{'pipeline':>10}{'page':>10}   page / pipeline")
    for figure, of in FIGURES.items():
        middle = [statistics.median(of(each[name]) for each in rounds) for name in names]
        ratio = statistics.median(of(each["page"]) / of(each["pipeline"]) for each in rounds)
        print(f"{figure:<26}" + "".join(f"{each:>10.1f}" for each in middle) + f"{ratio:>18.2f}")
    for precision in ("auto", "float32"):
        print(f"heat maps, {precision}: {cost_of_maps(run, photos, precision):.3f} of the network's time without them")


if __name__ == "__main__":
    main()
