"""What must not leave the machine is found wherever it stands, and what only looks like it is not."""

import csv
import json
import time
import zipfile
import zlib
from pathlib import Path
from urllib.parse import quote

import pytest
from conftest import ROOT

from hub_utils.card import TEMPLATE
from hub_utils.scan import IMAGE, PATH, PERSON, Finding, scan, secrets_in

TOKEN = "hf_" + "aB3" * 11
ROWS = [
    ("patients/P07_left.png", "ab" * 32, "benign", "train", "P07"),
    ("patients/5.png", "cd" * 32, "malignant", "test", "5"),
    ("Anna Meier/scan (1).jpg", "", "benign", "test", "Anna Meier"),
    ("more/Ünal-3.jpg", "", "class 7", "test", "Ünal-3"),
    ("more/photo.jpg", "", "class 7", "test", "class 7"),
    ("more/x.jpg", "", "benign", "train", "1234567"),
    ("more/y.jpg", "", "benign", "train", "sha256:" + "ef" * 32),
    ("more/z.jpg", "", "benign", "train", "2026-11-20"),
]


@pytest.fixture
def run(tmp_path) -> Path:
    """A folder that knows its data set, in which someone is called by name and someone by a number."""
    local = tmp_path / "a run" / "local"
    local.mkdir(parents=True)
    (local / "data.json").write_text(json.dumps({"data_dir": "/srv/clinic", "tables": [r"D:\studies\one"]}))
    with (local / "splits.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("path", "sha256", "label", "split", "group"), *ROWS])
    return local.parent


def kinds(run: Path, content: str | bytes, name: str = "README.md") -> list[str]:
    data = content if isinstance(content, bytes) else content.encode()
    return [finding.kind for finding in scan({name: data}, run, token="hf_alice")]


@pytest.mark.parametrize(
    "secret",
    [
        TOKEN,
        "api_org_" + "x" * 34,
        "AKIAIOSFODNN7EXAMPLE",
        "aws_secret_access_key = wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY",
        "ghp_" + "a1B2" * 9,
        "github_pat_" + "A1b2" * 8,
        "glpat-" + "x1" * 10,
        "sk-proj-" + "aB3" * 12,
        "sk-ant-api03-" + "x" * 24,
        "KGAT_" + "0f" * 16,
        '{"username":"someone","key":"' + "0f" * 16 + '"}',
        "AIza" + "x" * 35,
        "xoxb-1234567890-abc",
        "eyJhbGciOiJIUzI1.eyJzdWIiOiIxMjM0.SflKxwRJSMeKKF2QT4",
        "-----BEGIN OPENSSH PRIVATE KEY-----",
        "https://someone:secret@example.org/data.zip",
        "https://x.s3.amazonaws.com/y?X-Amz-Signature=" + "0f" * 32,
        "API_KEY='0123456789abcdef'",
        "machine huggingface.co login you password secret",
        "http://localhost:8888/lab?token=" + "0f" * 24,
        "export WANDB_TOKEN=0123456789abcdef",
        "sk_live_" + "aB3" * 8,
        "npm_" + "aB3x" * 9,
        "pypi-AgEIcHlwaS5vcmc" + "aB3x" * 9,
        "SG." + "aB3x" * 5 + "." + "aB3x" * 10,
        "DefaultEndpointsProtocol=https;AccountKey=" + "aB3x" * 21 + "==",
        "curl -H 'Authorization: Bearer aB3xaB3xaB3xaB3x'",
        '{"Authorization": "token aB3xaB3xaB3xaB3x"}',
        '{"token": "' + "0f" * 20 + '"}',
        "hf_alice",  # the user's own token, whatever it looks like
    ],
)
def test_a_secret_is_found_in_text_and_between_weights_and_is_not_repeated(run, secret):
    for name, content in {
        "README.md": f"A line\nand {secret} in the next".encode(),
        "model.safetensors": b"\x00\xff\x80" * 1000 + secret.encode() + b"\x00\xff",
    }.items():
        found = scan({name: content}, run, token="hf_alice")
        assert len(found) >= 1
        assert all(str(each).startswith(f"{name}, {'line 2' if name == 'README.md' else 'byte'}") for each in found)
        assert secret not in str(found)


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-8-sig"])
def test_a_token_is_found_in_text_as_powershell_writes_it(run, encoding):
    text = "Eine Übersicht\nmy token is hf_alice, and no more"
    data = text.encode(encoding)
    (found,) = scan({"notes.txt": data}, run, token="hf_alice")
    assert found.kind == "your token for the Hub"
    assert found.where == "line 2" or encoding in ("utf-16-le", "utf-16-be")
    assert "your token for the Hub" in {each.kind for each in secrets_in({"notes.txt": data}, "hf_alice")}


def test_the_place_in_a_binary_file_is_near_the_secret(run):
    (found,) = scan({"onnx/model.onnx": b"\x00" * 5000 + b"some text\x00\x01" + TOKEN.encode()}, run)
    assert found == Finding("onnx/model.onnx", "byte 5,011", "a token of Hugging Face")


@pytest.mark.parametrize(
    "place",
    [
        "/srv/clinic",
        "see /srv/clinic/patients for more",
        '"D:\\\\studies\\\\one\\\\x"',
        "D:\\studies\\one",
        "d:/studies/one",
        "/home/somebody/data",
        "/Users/somebody",
        r"C:\Users\somebody",
        '"C:\\\\Users\\\\somebody"',
        "file:///etc/passwd",
        str(Path.home()),
        str(Path(__file__).parent.parent / "hub_utils"),
    ],
)
def test_a_path_of_this_machine_is_found_as_it_may_be_written(run, place):
    assert PATH in kinds(run, f"made of {place} yesterday")


def test_the_run_folder_is_found_with_its_blank_in_an_address_too(run):
    assert set(kinds(run, f"[here]({run.as_uri()})")) == {PATH}
    assert kinds(run, f"[here]({quote(str(run))})") == [PATH]
    assert kinds(run, f'{{"from": {json.dumps(str(run))}}}', "recipe.json") == [PATH]
    assert kinds(run, "x" + run.as_uri().removeprefix("file://")) == []  # another path that ends alike


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("as patients/P07_left.png shows", IMAGE),
        ("as P07_left.png shows", IMAGE),
        ("as P07_left shows", IMAGE),
        ("as [scan (1).jpg](x) shows", IMAGE),
        ("patient P07 is in the test", PERSON),
        ("Anna Meier is in the test", PERSON),
        ("Ünal-3", PERSON),
        ("U\u0308nal-3", PERSON),  # decomposed, as macOS writes it
        ("number 1234567", PERSON),
    ],
)
def test_a_name_of_the_data_set_is_found(run, text, kind):
    assert kind in kinds(run, text)


def test_a_name_is_found_in_json_too_where_letters_may_be_escaped(run):
    assert kinds(run, json.dumps({"Ünal-3": 1}), "test_results.json") == [PERSON]
    assert kinds(run, '{"ids": ["1234567"], "parameters": 1234567, "x": 0.1234567}', "recipe.json") == [PERSON]


@pytest.mark.parametrize(
    "text",
    [
        "class 7 has 5 images, fold P070, model XP07, P07x, the risk-of-sk-learn-something-long-and-harmless",
        "Measured on 2026-11-20 on benign and malignant",
        "0.51234567 and 12345678",
        "https://example.org/home/page, https://example.org:8080/a@b, ratio 3:4, ~/data, ../data, data/digits",
        "pipeline(...)('photo.jpg'), hf_hub_download(repo_id), the class A:\\nB, key: value",
        '{"token": "<unk>", "Authorization": "Bearer YOUR_TOKEN"}, Authorization: Bearer $TOKEN, npm_config_cache',
        "10.24432/C50P49, https://doi.org/10.5281/zenodo.1234",
        TEMPLATE.read_text(encoding="utf-8"),
    ],
)
def test_what_only_looks_like_it_is_not_found(run, text):
    assert kinds(run, text) == []


def png(*chunks: tuple[bytes, bytes], tail: bytes = b"") -> bytes:
    body = [(b"IHDR", b"\x00" * 13), *chunks, (b"IDAT", b"\x00"), (b"IEND", b"")]
    framed = (
        len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big") for kind, data in body
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(framed) + tail


def test_a_plot_holds_what_matplotlib_writes_and_nothing_else(run, tmp_path):
    from matplotlib.figure import Figure

    path = tmp_path / "plot.png"
    Figure().savefig(path)
    assert kinds(run, path.read_bytes(), "plots/recall.png") == []
    drawn = (b"tEXt", b"Software\x00Matplotlib version3.11")
    assert kinds(run, png(drawn), "plots/recall.png") == []
    more = (b"tEXt", drawn[1] + b"\x00Me")
    assert kinds(run, png(drawn, more), "plots/recall.png") == ["metadata (tEXt) that matplotlib does not write"]
    assert kinds(run, png(drawn, (b"eXIf", b"\x00")), "plots/recall.png") == [
        "metadata (eXIf) that matplotlib does not write"
    ]
    assert kinds(run, png(drawn, (b"tEXt", b"Author\x00Me")), "plots/recall.png") == [
        "metadata (tEXt) that matplotlib does not write"
    ]
    assert kinds(run, png(drawn, tail=b"x"), "plots/recall.png") == ["something after the picture"]
    assert kinds(run, png()[:30], "plots/recall.png") == ["something after the picture"]
    assert kinds(run, b"\xff\xd8 a photograph", "plots/recall.png") == ["no PNG file"]


def test_an_image_of_the_data_set_is_none_of_the_plots(run):
    import hashlib

    splits = run / "local" / "splits.csv"
    splits.write_text(splits.read_text("utf-8").replace("ab" * 32, hashlib.sha256(png()).hexdigest()), "utf-8")
    assert kinds(run, png(), "plots/recall.png") == ["an image of the data set"]


def test_a_hundred_thousand_images_of_people_take_seconds(run):
    with (run / "local" / "splits.csv").open("w", newline="", encoding="utf-8") as file:
        rows = [(f"P{n:06}/image_{n:06}.jpg", f"{n:064x}", "benign", "train", f"P{n // 3:06}") for n in range(100_000)]
        csv.writer(file).writerows([("path", "sha256", "label", "split", "group"), *rows])
    text = "no image_1.jpg and no P1, " * 40_000
    start = time.process_time()
    assert kinds(run, text + "but P000007") == [PERSON]
    assert time.process_time() - start < 10


def test_a_wheel_is_opened_and_the_project_s_own_code_holds_no_secret(tmp_path):
    own = {
        str(path.relative_to(ROOT)): path for name in ("training", "hub_utils") for path in (ROOT / name).rglob("*.*")
    }
    assert len(own) > 100 and secrets_in({**own, "README.md": ROOT / "README.md"}, "hf_alice") == []
    with zipfile.ZipFile(tmp_path / "a.whl", "w", zipfile.ZIP_DEFLATED) as wheel:
        wheel.writestr("training/recipes/mine.py", f"import os\nos.environ['X'] = '{TOKEN}'\n")
    (found,) = secrets_in({"a.whl": tmp_path / "a.whl", "requirements.txt": b"torch"})
    assert str(found) == "a.whl/training/recipes/mine.py, line 2: a token of Hugging Face"
