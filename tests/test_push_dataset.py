"""A folder goes to the Hub as a data set, and training from there sees the same; nothing of whose it is goes along."""

import errno
import io
import json
import re
import shutil
import subprocess
import sys
import threading
import time
from contextlib import redirect_stdout
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml
from conftest import ROOT, scene, write_photo, write_photos
from huggingface_hub import constants
from loopback_hub import LoopbackHub
from PIL import Image
from pyarrow import parquet

from training.data import shards
from training.data.dataset_card import card_text
from training.data.images import open_rgb
from training.data.licence import FREE, card_facts, objection, short_name
from training.data.shards import write_shards
from training.data.source import Folder
from training.data.strip import strip
from training.data.survey import Survey, survey
from training.push_dataset import main
from training.recipe import Card, Data, UserError, load_recipe, recipe_names

ALICE, BOB, READER = "hf_alicealicealicealicealice", "hf_bobbobbobbobbobbobbob", "hf_readerreaderreaderreader"
SECRETS = ("patient-4711", "patient-0815", "Dr-Miller", "Nokia", ALICE, BOB)
RECIPE = """
from training.recipe import Data, Linear, Recipe, Stage
recipe = Recipe(
    title="Colours", base_model="none", head=(Linear(),), stages=(Stage(name="all"),),
    data=Data(pattern=r"(?P<label>[a-z]+)/(?P<group>patient-[0-9]+)[^/]*$"),
)
"""


def exif() -> Image.Exif:
    facts = Image.Exif()
    facts[0x013B], facts[0x010F] = "patient-4711", "Nokia"
    facts.get_ifd(0x8825)[1], facts.get_ifd(0x8825)[2] = "N", (52.0, 31.0, 12.0)
    return facts


@pytest.fixture
def patients(tmp_path) -> Path:
    """Three classes, two pictures a patient; copies, a picture in two classes, a broken one, other formats, places."""
    folder = tmp_path / "Dr-Miller"
    for number, label in enumerate(("blue", "green", "red")):
        for index in range(14):
            patient = f"patient-{4711 if index < 2 and label == 'red' else 1000 + 100 * number + index // 2}"
            path = folder / label / f"{patient}_{index}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            colours = np.full((60, 80, 3), 90) + scene(100 * number + index, 60, 80)[..., None] / 2
            colours[..., 2 - number] += 30
            how = {"exif": exif(), "comment": "patient-4711"} if index % 3 == 0 else {}
            kind = {4: ".webp", 5: ".png", 6: ".gif"}.get(index, ".jpg")
            Image.fromarray(np.clip(colours, 0, 255).astype("uint8")).save(path.with_suffix(kind), **how)
    shutil.copy(folder / "red" / "patient-4711_0.jpg", folder / "red" / "patient-4711_copy.jpg")
    shutil.copy(folder / "blue" / "patient-1001_2.jpg", folder / "green" / "patient-0815_9.jpg")
    (folder / "red" / "patient-0815_broken.jpg").write_bytes(b"no picture")
    (tmp_path / "colours.py").write_text(RECIPE)
    return folder


@pytest.fixture
def hub(monkeypatch):
    with LoopbackHub(
        tokens={ALICE: "alice", BOB: "bob", READER: "alice"}, roles={READER: "read"}, organisations={"acme": ["alice"]}
    ) as hub:
        monkeypatch.setattr(constants, "ENDPOINT", hub.url)  # all that HfApi() asks; downloads would not follow
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda seconds: None)  # between retries
        monkeypatch.setenv("HF_TOKEN", ALICE)
        yield hub


def tell(*words: object) -> str:
    with redirect_stdout(io.StringIO()) as said:
        assert main([str(word) for word in words]) == 0
    assert not any(token in said.getvalue() for token in (ALICE, BOB, READER))
    return said.getvalue()


def refusal(*words: object) -> str:
    """The one line that it is refused with."""
    with pytest.raises(UserError) as refused, redirect_stdout(io.StringIO()):
        main([str(word) for word in words])
    message = str(refused.value)
    assert "\n" not in message and not any(token in message for token in (ALICE, BOB, READER))
    return message


def look(folder: Path) -> Survey:
    return survey(load_recipe("folder"), "folder", Folder(folder), False, progress=False)


def front_matter(readme: bytes) -> dict:
    return yaml.safe_load(readme.decode().split("---\n")[1])


def ask(hub: LoopbackHub, home: Path, token: str | None, code: str, *words: object) -> list:
    """What the code prints, JSON by line, in a process whose only Hub is this one."""
    command = [sys.executable, "-c", code, *map(str, words)]
    environment = hub.environment(home, token) | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=home.parent, timeout=200)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


# There and back

BACK = """
import hashlib, json, sys
from pathlib import Path
from training.data.images import open_rgb
from training.data.source import Folder, HubDataset
from training.data.splits import conflicts, make_folds, make_splits
from training.data.streaming import Streamed
from training.fitting.reading import find
from training.recipe import load_recipe

def seen(source):
    recipe = load_recipe(sys.argv[1])
    found = find(recipe, source)
    rows, leaks = make_splits(found.examples, recipe.splits, found.duplicates)
    read, datasets = found.source.reader(), found.source.as_datasets(rows)
    pixels = lambda content: hashlib.sha256(open_rgb(content).tobytes()).hexdigest()
    images = sorted((pixels(read(row.path)), row.split, row.label) for row in rows)
    trained = sorted(
        (hashlib.sha256(row["image"].convert("RGB").tobytes()).hexdigest(), split, part.features["label"].names[row["label"]])
        for split, part in datasets.items() for row in part
    )
    torn = [sorted(each.label for each in cluster) for cluster in conflicts(found.examples, found.duplicates)]
    groups = [[pixels(read(each.path)), each.group] for each in found.examples if each.group]
    folds = [[[pixels(read(row.path)), row.split] for row in fold] for fold in
             make_folds(found.examples, 2, recipe.splits, found.duplicates)[0]]
    return [images, trained, len(found.skipped), len(leaks), torn, groups, folds]

print(json.dumps(seen(Folder(Path(sys.argv[2])))))
print(json.dumps(seen(HubDataset(sys.argv[3]))))
recipe = load_recipe(sys.argv[1])
streamed, skipped = Streamed(sys.argv[3]).pinned().surveyed(recipe.data, recipe.splits, progress=False)
print(json.dumps([streamed.survey.classes, streamed.survey.counts, streamed.survey.held_out, len(skipped)]))

from datasets import load_dataset
loaded = load_dataset(sys.argv[3])
counts = {split: len(part) for split, part in loaded.items()}
print(json.dumps([counts, loaded["train"].features["label"].names, loaded["train"].column_names]))
"""  # noqa: E501


def by_group(pairs: list) -> dict[str, set]:
    """What each group has, by its name."""
    found = {}
    for what, group in pairs:
        found.setdefault(group, set()).add(what)
    return found


@pytest.mark.slow
def test_training_from_the_hub_sees_the_images_splits_and_labels_that_training_from_the_folder_sees(
    hub, patients, tmp_path
):
    recipe = tmp_path / "colours.py"
    said = tell(recipe, "--data_dir", patients, "--repo_id", "colours")
    words = (recipe, patients, "alice/colours")
    here, there, streamed, loaded = ask(hub, tmp_path / "home", ALICE, BACK, *words)
    images, trained, _, _, torn, _, _ = here
    assert there[0] == images and there[1] == there[0] and trained == images
    assert len(images) == 44 and torn == there[4] == [["blue", "green"]] and there[2:4] == [0, 0]
    counts = {split: sum(each[1] == split for each in images) for split in ("train", "validation", "test")}
    assert loaded == [counts, ["blue", "green", "red"], ["image", "label", "group"]]
    assert streamed[0] == ["blue", "green", "red"] and streamed[2:] == [[], 0]
    assert {split: sum(streamed[1][split]) for split in counts} == counts
    assert f"splits     train {counts['train']} · validation {counts['validation']} · test {counts['test']}" in said
    assert "left out   1 × not an image, whatever its name says" in said
    assert re.search(r"removed    from \d+ images: the place where they were taken \(GPS\)", said)
    patients_here, patients_there = by_group(here[5]), by_group(there[5])
    for fold in map(dict, there[6]):
        assert len(set(fold.values())) == 3
        for shown in patients_here.values():
            assert len({fold[each] for each in shown if each in fold}) <= 1
    assert sorted(map(sorted, patients_here.values())) == sorted(map(sorted, patients_there.values()))
    assert set(patients_there) == {str(number) for number in range(len(patients_here))}
    assert f"groups     {len(patients_here)}, as numbers that say nothing" in said


@pytest.mark.slow
def test_training_from_the_hub_sees_the_same_of_a_folder_without_groups(hub, tmp_path):
    photos = write_photos(tmp_path / "photos", {"red": 12, "blue": 12})
    said = tell(photos, "--repo_id", "plain")
    here, there, _, loaded = ask(hub, tmp_path / "home", ALICE, BACK, "folder", photos, "alice/plain")
    assert there[:2] == here[:2] and here[5] == there[5] == []
    assert loaded[2] == ["image", "label"] and "groups  " not in said
    assert "`group`" not in hub.files("alice/plain", "dataset")["README.md"].decode()


def test_numbers_of_groups_follow_the_order_of_the_files_and_some_images_have_none(tmp_path):
    photos = write_photos(tmp_path / "photos", {"red": 15, "blue": 15})
    seen = look(photos)
    named = [
        replace(each, group=None if each.path.endswith("4.png") else f"{each.label}-{int(Path(each.path).stem) // 2}")
        for each in seen.examples
    ]
    seen = replace(seen, examples=named)
    written = write_shards(seen, tmp_path, progress=False)
    tables = [parquet.read_table(tmp_path / name) for names in written.files.values() for name in names]
    numbers = [number for table in tables for number in table["group"].to_pylist()]
    assert {str(table.schema.field("group").type) for table in tables} == {"int32"}
    assert written.groups == 14 and numbers.count(None) == 4
    first_seen = list(dict.fromkeys(number for number in numbers if number is not None))
    assert first_seen == list(range(14))
    text = card_text(seen, written, tmp_path, "kim/photos")
    assert {"name": "group", "dtype": "int32"} in yaml.safe_load(text.split("---\n")[1])["dataset_info"]["features"]
    assert "14 groups (patients, say)" in text and "`group`" in text and "red-1" not in text


def test_no_name_place_or_token_is_in_anything_that_was_uploaded(hub, patients, tmp_path):
    tell(tmp_path / "colours.py", "--data_dir", patients, "--repo_id", "colours", "--tag", "v1")
    everything = hub.files("alice/colours", "dataset")
    assert set(everything) == {
        ".gitattributes",
        "README.md",
        *(f"data/{split}-00000-of-00001.parquet" for split in ("train", "validation", "test")),
    }
    commits = hub.commits("alice/colours", "dataset")
    told = "".join(commit.title + commit.message for commit in commits).encode()
    for name in (*SECRETS, tmp_path.name, "patient-", "Exif", "_0.jpg", "colours.py"):
        assert name.encode() not in b"".join(everything.values()) + told, name
    rows = [parquet.read_table(io.BytesIO(everything[name])) for name in everything if name.endswith("parquet")]
    assert all(each["path"] is None for table in rows for each in table["image"].to_pylist())
    assert "groups (patients, say)" in everything["README.md"].decode()
    assert all("group" in table.column_names for table in rows)


def test_a_private_data_set_is_not_for_strangers_and_a_public_one_is(hub, tmp_path):
    photos = write_photos(tmp_path / "photos", {"red": 8, "blue": 8})
    tell(photos, "--repo_id", "private")
    tell(photos, "--repo_id", "public", "--public", "--i_have_the_right", "--license", "CC BY 4.0")
    code = """
import json, sys
from datasets import load_dataset
for name in ("alice/private", "alice/public"):
    try:
        print(json.dumps(len(load_dataset(name)["train"])))
    except Exception as error:
        print(json.dumps(type(error).__name__))
"""
    for token in (None, BOB):
        private, public = ask(hub, tmp_path / f"home-{token}", token, code)
        assert private == "DatasetNotFoundError" and public > 8
    assert front_matter(hub.files("alice/public", "dataset")["README.md"])["license"] == "cc-by-4.0"
    assert "license" not in front_matter(hub.files("alice/private", "dataset")["README.md"])


# What is written


def test_the_same_images_make_the_same_bytes_in_small_row_groups_of_mixed_classes(tmp_path, monkeypatch):
    photos = write_photos(tmp_path / "photos", {"red": 60, "green": 60, "blue": 60})
    monkeypatch.setattr(shards, "GROUP_ROWS", 20)
    monkeypatch.setattr(shards, "SHARD_BYTES", 60_000)
    seen, made = look(photos), []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        written = write_shards(seen, tmp_path / name, progress=False)
        made.append({path: (tmp_path / name / path).read_bytes() for paths in written.files.values() for path in paths})
    assert made[0] == made[1]
    assert sorted(path.name for path in (tmp_path / "one" / "data").iterdir()) == sorted(Path(n).name for n in made[0])
    assert len(written.files["train"]) > 1
    count = len(written.files["train"])
    assert written.files["train"] == [f"data/train-{i:05}-of-{count:05}.parquet" for i in range(count)]
    files = [parquet.ParquetFile(tmp_path / "one" / name) for name in written.files["train"]]
    groups = [file.read_row_group(i).to_pylist() for file in files for i in range(file.num_row_groups)]
    assert max(map(len, groups)) == 20 and all(len({row["label"] for row in group}) == 3 for group in groups[:-1])
    assert sum(map(len, groups)) == sum(row.split == "train" for row in seen.rows)
    assert all((tmp_path / "one" / name).stat().st_size < 60_000 + 20 * 5_000 for name in made[0])
    assert json.loads(files[0].schema_arrow.metadata[b"huggingface"])["info"]["features"]["label"]["names"] == [
        "blue",
        "green",
        "red",
    ]


def test_a_big_picture_ends_a_row_group(tmp_path, monkeypatch):
    photos = write_photos(tmp_path / "photos", {"red": 10, "blue": 10})
    monkeypatch.setattr(shards, "GROUP_BYTES", 8_000)
    seen = look(photos)
    written = write_shards(seen, tmp_path, progress=False)
    file = parquet.ParquetFile(tmp_path / written.files["train"][0])
    assert file.num_row_groups > 2


def test_as_many_images_are_under_way_as_memory_holds(tmp_path, monkeypatch):
    photos = write_photos(tmp_path / "photos", {"red": 20, "blue": 20})
    seen, lock, now, most = look(photos), threading.Lock(), 0, 0

    def slow(content):
        nonlocal now, most
        with lock:
            now += 1
            most = max(most, now)
        time.sleep(0.01)
        with lock:
            now -= 1
        return strip(content)

    monkeypatch.setattr(shards, "strip", slow)
    monkeypatch.setattr(shards.os, "cpu_count", lambda: 8)
    made = {}
    for pixels, expected in ((40 * 32 * 3, 3), (1, 1), (10**9, 8)):  # one larger than all is read alone
        monkeypatch.setattr(shards, "PIXELS", pixels)
        folder, most = tmp_path / str(pixels), 0
        folder.mkdir()
        written = write_shards(seen, folder, progress=False)
        assert most == expected
        made[pixels] = [(folder / name).read_bytes() for names in written.files.values() for name in names]
    assert made[1] == made[10**9]


def test_an_image_that_changes_or_goes_meanwhile_stops_the_push(tmp_path):
    photos = write_photos(tmp_path / "photos", {"red": 10, "blue": 10})
    seen = look(photos)
    for number, (spoil, words) in enumerate(
        [(lambda path: write_photo(path, 0.5, 7), "has changed"), (Path.unlink, "cannot be opened any more")]
    ):
        spoil(photos / "red" / "003.png")
        (tmp_path / str(number)).mkdir()
        with pytest.raises(UserError, match=f"'red/003.png' {words}.*nothing was sent"):
            write_shards(seen, tmp_path / str(number), progress=False)


def test_the_card_says_what_is_in_it_and_where_its_files_are(hub, patients, tmp_path):
    tell(tmp_path / "colours.py", "--data_dir", patients, "--repo_id", "acme/colours", "--license", "my own terms")
    text = hub.files("acme/colours", "dataset")["README.md"]
    facts = front_matter(text)
    assert (facts["license"], facts["license_name"]) == ("other", "my-own-terms")
    assert facts["task_categories"] == ["image-classification"] and facts["size_categories"] == ["n<1K"]
    paths = {each["split"]: each["path"] for each in facts["configs"][0]["data_files"]}
    assert paths == {split: [f"data/{split}-00000-of-00001.parquet"] for split in ("train", "validation", "test")}
    counts = {each["name"]: each["num_examples"] for each in facts["dataset_info"]["splits"]}
    assert sum(counts.values()) == 44
    body = text.decode()
    assert f"| **all** | {counts['train']} | {counts['validation']} | {counts['test']} | 44 |" in body
    assert 'load_dataset("acme/colours")' in body and "1 picture stands in two classes at once" in body
    assert "2 exact (the same file)" in body and "1 × not an image, whatever its name says" in body
    assert "always saying" in body and "GPS" in body


def test_splits_that_the_data_brought_are_not_said_to_be_drawn(hub, tmp_path):
    for split in ("train", "val", "test"):
        write_photos(tmp_path / "photos" / split, {"red": 0, "blue": 0})
        for number, label in enumerate(("red", "blue")):
            for index in range(5):
                seed = 1000 * ("train", "val", "test").index(split) + 100 * number + index
                write_photo(tmp_path / "photos" / split / label / f"{index}.png", number / 2, seed)
    tell(tmp_path / "photos", "--repo_id", "own")
    write_photo(tmp_path / "photos" / "train" / "red" / "more.png", 0.01, 99)
    assert "drawn anew" not in tell(tmp_path / "photos", "--repo_id", "own")
    assert "anew" not in hub.files("alice/own", "dataset")["README.md"].decode()


def test_what_people_write_changes_nothing_in_the_card(tmp_path):
    odd = {"a|b": 12, "<script>": 12, "*bold*": 12, "[x](y)": 12, "yes": 12, "---": 12}
    photos = write_photos(tmp_path / "photos", odd)
    recipe = load_recipe("folder")
    card = Card(citation="# A <b>book</b>\n\n---\nof | bars", data_license="<i>mine</i>")
    recipe = replace(recipe, name="mine", title="`Ti|tle`\n# x", card=card, data=Data(source="/home/kim/photos"))
    seen = survey(recipe, "mine", Folder(photos), False, progress=False)
    written = write_shards(seen, tmp_path, progress=False)
    text = card_text(seen, written, tmp_path, "kim/photos")
    _, matter, body = text.split("---\n", 2)
    assert yaml.safe_load(matter)["dataset_info"]["features"][1]["dtype"]["class_label"]["names"] == {
        str(i): name for i, name in enumerate(sorted(odd))
    }
    assert "<script>" not in body and "<b>" not in body and "<i>" not in body and "/home/kim" not in text
    assert "| a\\|b |" in body and "\n# x" not in body


# Whose images these are


def test_of_the_projects_own_recipes_only_the_digits_may_be_passed_on_freely():
    assert {name for name in recipe_names() if objection(load_recipe(name), public=False) is None} == {
        "digits",
        "folder",
    }
    assert {name for name in recipe_names() if objection(load_recipe(name), public=True) is None} == {"digits"}
    why = objection(load_recipe("dog_breeds"), public=False)
    for word in ("research use", "http://vision.stanford.edu/aditya86/ImageNetDogs/", "--i_have_the_right"):
        assert word in why


@pytest.mark.parametrize(
    "licence, free",
    [("CC BY 4.0", True), ("cc0-1.0", True), ("MIT", True), ("CC BY-NC 4.0", False), ("cc-by-nd-4.0", False)]
    + [("unknown", False), ("research use", False), ("CC BY, per photo", False), ("", False)],
)
def test_a_licence_is_free_if_the_table_says_so_and_not_otherwise(licence, free):
    assert (short_name(licence) in FREE) is free
    recipe = replace(load_recipe("flowers"), card=Card(data_license=licence))
    assert (objection(recipe, public=True) is None) is free


def test_what_the_front_matter_says_of_a_licence():
    said = {
        name: card_facts(load_recipe(name), None) for name in ("digits", "rocks", "leukemia", "folder", "dog_breeds")
    }
    assert said["digits"] == {"license": "cc-by-4.0"} and said["folder"] == {}
    assert said["rocks"] == said["leukemia"] == {"license": "unknown"}
    assert said["dog_breeds"] == {"license": "other", "license_name": "research-use"}


def test_who_has_no_right_is_refused_before_anything_is_read_or_asked(hub, tmp_path):
    assert "'none stated' (source: https://osf.io/d6b9y/)" in refusal(
        "rocks", "--data_dir", tmp_path / "none", "--repo_id", "rocks"
    )
    photos = write_photos(tmp_path / "photos", {"red": 8, "blue": 8})
    assert "--i_have_the_right" in refusal(photos, "--repo_id", "mine", "--public")
    assert hub.requests == []


# Again, and interrupted


def test_pushing_again_sends_what_has_changed_and_old_files_stay_without_being_read(hub, tmp_path, monkeypatch):
    monkeypatch.setattr(shards, "GROUP_ROWS", 10)
    monkeypatch.setattr(shards, "SHARD_BYTES", 30_000)
    photos = write_photos(tmp_path / "photos", {"red": 40, "blue": 40})
    said = tell(photos, "--repo_id", "mine", "--tag", "v1")
    first = hub.commits("alice/mine", "dataset")[-1].sha
    assert f"revision   {first}, tag v1" in said and "drawn anew" not in said
    assert "draws them anew" in hub.files("alice/mine", "dataset")["README.md"].decode()
    hub.requests.clear()
    again = tell(photos, "--repo_id", "alice/mine", "--tag", "v1")
    assert f"revision   {first}, tag v1" in again and "drawn anew" not in again
    assert [each for each in hub.requests if each[0] != "GET" and "/commit/" in each[1]] == []
    for path in sorted(photos.rglob("*.png"))[::2]:
        path.unlink()
    said = tell(photos, "--repo_id", "mine")
    second = hub.commits("alice/mine", "dataset")[-1]
    assert "files of an earlier push are there still, and are not read" in said
    assert "the splits were drawn anew" in said and "train and test on one revision" in said
    assert set(hub.files("alice/mine", "dataset", first)) <= set(second.files)
    assert "a tag v1 already" in refusal(photos, "--repo_id", "mine", "--tag", "v1")
    code = """
import json
from datasets import load_dataset
for revision in (None, "v1"):
    print(json.dumps(sum(map(len, load_dataset("alice/mine", revision=revision).values()))))
"""
    assert ask(hub, tmp_path / "home", ALICE, code) == [40, 80]


@pytest.mark.parametrize("is_new", [True, False], ids=["new", "again"])
@pytest.mark.parametrize("how", ["down", "lose", 503])
def test_a_push_that_is_interrupted_anywhere_leaves_the_old_or_the_new_and_says_which(hub, tmp_path, how, is_new):
    photos = write_photos(tmp_path / "photos", {"red": 8, "blue": 8})
    if not is_new:
        tell(photos, "--repo_id", "count")
        write_photo(photos / "red" / "more.png", 0.01, 99)
    hub.requests.clear()
    before = hub.files("alice/count", "dataset") if not is_new else None
    tell(photos, "--repo_id", "other")  # of as many requests as a push to a new repo takes
    requests = len(hub.requests)
    outcomes = set()
    for number in range(requests):
        name = f"try-{number}"
        if not is_new:
            hub.add(f"alice/{name}", before, "dataset", private=True)
        old = hub.files(f"alice/{name}", "dataset") if not is_new else {}
        hub.fail("", how, skip=number, times=1 if how == "lose" else float("inf"))
        with redirect_stdout(io.StringIO()):
            try:
                main([str(photos), "--repo_id", name])
                error = None
            except UserError as refused:
                error = str(refused)
        hub.recover()
        key = ("datasets", f"alice/{name}")
        there = hub.files(f"alice/{name}", "dataset") if key in hub.repos else {}
        there.pop(".gitattributes", None)
        old.pop(".gitattributes", None)
        is_old, is_whole = there == old, any("parquet" in path for path in there)
        assert is_old or is_whole
        if error is None:
            assert not is_old
        elif "nothing has changed" in error or "nothing is on the Hub" in error:
            assert is_old
        outcomes.add((error is None, is_old))
        tell(photos, "--repo_id", name)
        final = hub.files(f"alice/{name}", "dataset")
        assert {path for path in final if path.startswith("data/")} and (
            is_new or final["README.md"] != before["README.md"]
        )
        assert len(hub.commits(f"alice/{name}", "dataset")) == 2
    assert outcomes == {(True, False)} if how == "lose" else (False, True) in outcomes  # one that is lost is noticed


# What is refused


def test_what_is_wrong_is_one_line_with_the_next_step(hub, tmp_path, monkeypatch):
    photos = write_photos(tmp_path / "photos", {"red": 8, "blue": 8})
    one = write_photos(tmp_path / "one", {"red": 8})
    (tmp_path / "empty").mkdir()
    assert "--repo_id OWNER/NAME is missing" in refusal(photos)
    assert "no folder 'nowhere'" in refusal("nowhere", "--repo_id", "mine")
    assert "no images in" in refusal(tmp_path / "empty", "--repo_id", "mine")
    assert "only one class" in refusal(one, "--repo_id", "mine")
    assert "cannot be a name on the Hub" in refusal(photos, "--repo_id", "a b")
    assert "belongs to bob, and this token to alice; --repo_id alice/NAME" in refusal(photos, "--repo_id", "bob/mine")
    hub.add("alice/other", {"notes.txt": b"mine"}, "dataset", private=True)
    assert "holds something else (1 files, such as notes.txt): choose another --repo_id" in refusal(
        photos, "--repo_id", "other"
    )
    assert hub.files("alice/other", "dataset") == {"notes.txt": b"mine"}
    hub.add("alice/seen", {}, "dataset")
    assert "is public; --public says that you mean it" in refusal(photos, "--repo_id", "seen")
    tell(photos, "--repo_id", "mine")
    settings = f"{hub.url}/datasets/alice/mine/settings"
    assert settings in refusal(photos, "--repo_id", "mine", "--public", "--i_have_the_right")
    monkeypatch.setenv("HF_TOKEN", READER)
    assert "may only read" in refusal(photos, "--repo_id", "mine")
    monkeypatch.setenv("HF_TOKEN", "")
    assert "no token for the Hub: `hf auth login`" in refusal(photos, "--repo_id", "mine")
    monkeypatch.setenv("HF_TOKEN", "hf_unknownunknownunknown")
    assert "does not know this token" in refusal(photos, "--repo_id", "mine")
    monkeypatch.setenv("HF_TOKEN", ALICE)
    hub.fail("", "down")
    assert "the Hub cannot be reached" in refusal(photos, "--repo_id", "mine")


def test_what_looks_like_a_token_is_refused_and_not_repeated(hub, tmp_path):
    """`refusal` looks for the token in the message."""
    photos = write_photos(tmp_path / "photos", {"red": 8, "blue": 8})
    for flag in ("--license", "--tag", "--repo_id"):
        words = [] if flag == "--repo_id" else ["--repo_id", "mine"]
        assert f"{flag} 'my-hf_…' looks like a token" in refusal(photos, *words, flag, f"my-{ALICE}")
    recipe = tmp_path / "colours.py"
    recipe.write_text(
        RECIPE.replace('"none"', f'"none", card=Card(citation="By {BOB}, 1999")').replace("Data,", "Card, Data,")
    )
    patients = tmp_path / "patients"
    for number, label in enumerate(("red", "blue")):
        for index in range(8):
            write_photo(patients / label / f"patient-{index}.png", number / 2, 100 * number + index)
    said = refusal(recipe, "--data_dir", patients, "--repo_id", "mine")
    assert "By hf_…, 1999" in said and "looks like a token" in said and "nothing was sent" in said
    (photos / "red").rename(photos / f"red {ALICE}")
    said = refusal(photos, "--repo_id", "mine")
    assert "class 'red hf_…' looks like a token" in said and "nothing was sent" in said
    assert "class 'red hf_…'" in refusal(photos, "--dry_run")
    assert ("datasets", "alice/mine") not in hub.repos


def test_a_full_disk_is_said_in_one_line_and_nothing_is_left(hub, tmp_path, monkeypatch):
    photos = write_photos(tmp_path / "photos", {"red": 8, "blue": 8})
    room = tmp_path / "room"
    room.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(room))

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(shards, "_writer", full)
    assert f"'{room}', where the data set is put together, takes no more" in refusal(photos, "--repo_id", "mine")
    assert list(room.iterdir()) == [] and ("datasets", "alice/mine") not in hub.repos


def test_a_dry_run_asks_nobody_and_says_what_would_go(hub, patients, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "")
    said = tell(tmp_path / "colours.py", "--data_dir", patients, "--dry_run")
    assert hub.requests == []
    for words in ("44 images in 3 classes", "(GPS)", "MB, and README.md; for your eyes only", "--repo_id OWNER/NAME"):
        assert words in said
    photos = write_photos(tmp_path / "photos", {"red": 8, "blue": 8})
    assert "without --dry_run this is refused: --public shows" in tell(photos, "--dry_run", "--public")


def test_what_is_published_is_what_a_network_sees(tmp_path):
    """Of every format, also those that become PNG."""
    photos = write_photos(tmp_path / "photos", {"red": 9, "blue": 9})
    for number, kind in enumerate(("bmp", "gif", "webp", "tiff")):
        image = Image.open(photos / "red" / f"{number:03}.png")
        image.save(photos / "red" / f"{number:03}.{kind}")
        (photos / "red" / f"{number:03}.png").unlink()
    seen = look(photos)
    written = write_shards(seen, tmp_path, progress=False)
    tables = [parquet.read_table(tmp_path / name).to_pylist() for names in written.files.values() for name in names]
    published = sorted(open_rgb(row["image"]["bytes"]).tobytes() for table in tables for row in table)
    assert published == sorted(open_rgb(photos / row.path).tobytes() for row in seen.rows)
    assert written.how == {"as it was": 14, "png": 4}
