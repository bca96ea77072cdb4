"""Duplicates: true variants of pictures are found, under the right name, and none is invented among look-alikes."""

import io
import random
from collections.abc import Callable, Iterable

import cv2
import numpy as np
import pytest
from conftest import scene
from PIL import Image, ImageDraw, ImageEnhance, ImageOps
from scipy.cluster.hierarchy import DisjointSet

from training.data import cache, duplicates, images
from training.data.duplicates import Duplicate, find_duplicates, summary
from training.data.images import look
from training.data.intake import Example


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(cache, "cache_file", lambda: tmp_path / "images.sqlite3")


def jpeg(picture: Image.Image | np.ndarray, quality: int = 90, format: str = "JPEG") -> bytes:
    content = io.BytesIO()
    (picture if isinstance(picture, Image.Image) else Image.fromarray(picture)).save(content, format, quality=quality)
    return content.getvalue()


def examples(files: dict[str, bytes]) -> list[Example]:
    found = {path: look(content) for path, content in files.items()}
    return [Example(path, "x", sha256=facts.sha256, facts=facts) for path, facts in found.items()]


def search(files: dict[str, bytes], thorough: bool = False) -> list[Duplicate]:
    return find_duplicates(examples(files), files.__getitem__, thorough, progress=False)


def photo(seed: int) -> Image.Image:
    """In colour, and no two of one size."""
    planes = [scene(seed * 10 + i, 200 + seed % 7, 260 + seed % 11).astype(float) for i in range(2)]
    return Image.fromarray(np.stack([planes[0], (planes[0] + planes[1]) / 2, planes[1] * 0.8], axis=2).astype(np.uint8))


def xray(seed: int) -> Image.Image:
    """One body, in nearly one place, with its own ribs: as a whole they correlate to .98."""
    draw = np.random.default_rng(seed)
    y, x = np.mgrid[:224, :224] / 224 - 0.5 + draw.normal(0, 0.005, (2, 1, 1))
    body = 170 * np.exp(-(((x / 0.5) ** 2 + (y / 0.6) ** 2) ** 2))
    for side in (-1, 1):
        body -= 110 * np.exp(-((((x - side * 0.2) / 0.13) ** 2 + (y / 0.3) ** 2) ** 2))
    own = cv2.GaussianBlur(draw.normal(0, 60, body.shape), (0, 0), 5) + cv2.GaussianBlur(
        draw.normal(0, 6, body.shape), (0, 0), 1
    )
    return Image.fromarray(np.clip(body + own + 30, 0, 255).astype(np.uint8))


def smear(seed: int) -> Image.Image:
    """Dozens of nearly equal round cells on a pale ground."""
    draw = np.random.default_rng(seed)
    ground = np.full((240, 320), 225, np.float32) + draw.normal(0, 1.5, (240, 320)).astype(np.float32)
    for _ in range(45):
        x, y, r = draw.uniform(0, 320), draw.uniform(0, 240), draw.normal(11, 0.6)
        cv2.circle(ground, (round(x * 16), round(y * 16)), round(r * 16), 165, -1, cv2.LINE_AA, 4)
        cv2.circle(ground, (round(x * 16), round(y * 16)), round(r * 6), 195, -1, cv2.LINE_AA, 4)
    return Image.fromarray(np.clip(cv2.GaussianBlur(ground, (0, 0), 1), 0, 255).astype(np.uint8))


def ultrasound(seed: int) -> Image.Image:
    """Speckle in a fan, and the same letters and ruler in each."""
    draw = np.random.default_rng(seed)
    speckle = np.abs(cv2.GaussianBlur(draw.normal(0, 1, (240, 320)), (0, 0), 1.5))
    tissue = cv2.resize(draw.uniform(20, 200, (5, 7)), (320, 240), interpolation=cv2.INTER_CUBIC)
    fan = np.zeros((240, 320), np.uint8)
    cv2.ellipse(fan, (160, -30), (250, 250), 0, 55, 125, 1, -1)
    picture = Image.fromarray(np.clip(tissue * (0.4 + 2.5 * speckle) * fan, 0, 255).astype(np.uint8))
    pen = ImageDraw.Draw(picture)
    pen.text((4, 4), "ACME HEALTH\nC5-1 Abd\nMI 1.2", fill=230)
    for line in range(20):
        pen.line((308, 20 + 10 * line, 318, 20 + 10 * line), fill=230)
    return picture


def few_dots(seed: int) -> Image.Image:
    """Dark, with few bright dots: its mean in any sixteenth hardly differs from another's."""
    draw = np.random.default_rng(seed)
    dark = draw.normal(6, 1.5, (256, 256)).astype(np.float32)
    for _ in range(10):
        cv2.circle(
            dark, tuple(int(v) for v in draw.integers(8, 248, 2)), int(draw.integers(1, 4)), 180, -1, cv2.LINE_AA
        )
    return Image.fromarray(np.clip(cv2.GaussianBlur(dark, (0, 0), 1), 0, 255).astype(np.uint8))


def panorama(seed: int) -> Image.Image:
    return Image.fromarray(scene(seed + 500, 64, 1024))


SETS = {"photos": photo, "X-rays": xray, "smears": smear, "ultrasound": ultrasound, "few dots": few_dots}
SETS |= {"panoramas": panorama}
COUNT = 8

Variant = Callable[[Image.Image, random.Random], tuple[Image.Image | np.ndarray, int]]


def resized(picture: Image.Image, draw: random.Random) -> tuple[Image.Image, int]:
    by = 2 ** draw.uniform(-2, 1)
    return picture.resize((round(picture.width * by), round(picture.height * by)), Image.Resampling.BICUBIC), 90


def crop(picture: Image.Image, draw: random.Random) -> tuple[Image.Image, int]:
    by = draw.uniform(0.6, 0.9) ** 0.5
    width, height = round(picture.width * by), round(picture.height * by)
    x, y = draw.randint(0, picture.width - width), draw.randint(0, picture.height - height)
    return picture.crop((x, y, x + width, y + height)), 90


AS_A_WHOLE: dict[str, Variant] = {
    "resaved": lambda picture, draw: (picture, draw.randint(50, 94)),
    "resized": resized,
    "brighter or darker": lambda picture, draw: (ImageEnhance.Brightness(picture).enhance(draw.choice((0.8, 1.2))), 90),
    "squashed": lambda picture, draw: (picture.resize((picture.width * 3 // 4, picture.height)), 90),
}
TURNED: dict[str, Variant] = {
    "mirrored": lambda picture, draw: (ImageOps.mirror(picture), 90),
    "upside down": lambda picture, draw: (picture.rotate(180), 90),
    "turned": lambda picture, draw: (picture.transpose(Image.Transpose.ROTATE_90), 90),
}


def with_variants(make: Callable[[int], Image.Image], variant: Variant) -> dict[str, bytes]:
    draw = random.Random(0)
    files = {}
    for seed in range(COUNT):
        picture = make(seed)
        files[f"a/{seed}.jpg"] = jpeg(picture, 95)
        files[f"b/{seed}.jpg"] = jpeg(*variant(picture, draw))
    return files


def judged(found: Iterable[Duplicate]) -> tuple[set[str], list[Duplicate]]:
    """Names of which both are found, and the pairs that are none."""
    false = [pair for pair in found if pair.first.split("/")[1] != pair.second.split("/")[1]]
    return {pair.first.split("/")[1] for pair in found} - {pair.first for pair in false}, false


@pytest.mark.parametrize("kind", AS_A_WHOLE)
@pytest.mark.parametrize("name", SETS)
def test_copies_are_found_without_thorough(name, kind):
    found = search(with_variants(SETS[name], AS_A_WHOLE[kind]))
    names, false = judged(found)
    assert not false
    assert len(names) == COUNT
    assert {pair.kind for pair in found} == {"near"}


@pytest.mark.parametrize("kind", TURNED)
def test_turned_copies_are_found_with_thorough_only(kind):
    files = with_variants(photo, TURNED[kind])
    assert search(files) == []
    found = search(files, thorough=True)
    names, false = judged(found)
    assert not false and len(names) == COUNT
    assert {pair.kind for pair in found} == {"mirrored"}


@pytest.mark.parametrize("name", ["photos", "X-rays", "smears", "ultrasound", "panoramas"])
def test_crops_are_found_with_thorough(name):
    found = search(with_variants(SETS[name], crop), thorough=True)
    names, false = judged(found)
    assert not false
    assert len(names) >= 0.9 * COUNT
    assert {pair.kind for pair in found} == {"part"}


@pytest.mark.parametrize("name", ["photos", "X-rays", "smears", "ultrasound", "panoramas"])
def test_views_that_overlap_by_half_are_found_with_thorough(name):
    files = {}
    for seed in range(COUNT):
        picture = SETS[name](seed)
        third = picture.width // 3
        files[f"a/{seed}.jpg"] = jpeg(picture.crop((0, 0, 2 * third, picture.height)), 95)
        files[f"b/{seed}.jpg"] = jpeg(picture.crop((third, 0, 3 * third, picture.height)), 90)
    found = search(files, thorough=True)
    names, false = judged(found)
    assert not false
    assert len(names) >= 0.9 * COUNT
    assert {pair.kind for pair in found} == {"part"}


@pytest.mark.parametrize("name", SETS)
def test_among_look_alikes_nothing_is_invented(name):
    assert search({f"{seed}.jpg": jpeg(SETS[name](seed)) for seed in range(24)}, thorough=True) == []


def test_neighbouring_windows_of_one_smear_are_no_duplicates():
    whole = np.concatenate([np.asarray(smear(seed)) for seed in range(4)], axis=1)
    files = {f"{x}.jpg": jpeg(whole[:, x : x + 256]) for x in range(0, whole.shape[1], 256)}
    assert search(files, thorough=True) == []


def test_a_black_or_white_frame_in_common_makes_no_duplicates():
    files = {}
    for seed in range(12):
        framed = Image.new("L", (400, 300), 255 if seed % 2 else 0)
        framed.paste(Image.fromarray(scene(seed, 120, 140)), (130, 90))
        files[f"{seed}.png"] = jpeg(framed, format="PNG")
    assert search(files, thorough=True) == []


def test_copies_of_the_same_bytes_are_exact_and_the_first_path_leads():
    files = {"c.jpg": jpeg(photo(1)), "a.jpg": jpeg(photo(1)), "b.jpg": jpeg(photo(1)), "d.jpg": jpeg(photo(2))}
    assert search(files) == [Duplicate("a.jpg", "b.jpg", "exact", 1.0), Duplicate("a.jpg", "c.jpg", "exact", 1.0)]


def test_one_picture_in_all_modes_and_formats_is_one():
    picture = photo(3)
    clear = picture.convert("RGBA")
    clear.putalpha(Image.linear_gradient("L").resize(picture.size))
    files = {
        "rgb.jpg": jpeg(picture),
        "cmyk.jpg": jpeg(picture.convert("CMYK")),
        "grey.png": jpeg(picture.convert("L"), format="PNG"),
        "palette.png": jpeg(picture.quantize(128), format="PNG"),
        "clear.png": jpeg(clear, format="PNG"),
        "webp.webp": jpeg(picture, 60, "WEBP"),
        "other.jpg": jpeg(photo(4)),
    }
    for thorough in (False, True):
        found = search(files, thorough)
        assert len(found) == 5 and {pair.kind for pair in found} == {"near"}
        assert "other.jpg" not in {path for pair in found for path in (pair.first, pair.second)}


def test_small_noise_resaved_is_near_and_not_a_part():
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype="uint8"))
    found = search({"a.png": jpeg(noise, format="PNG"), "b.jpg": jpeg(noise.convert("CMYK"))}, thorough=True)
    assert [pair.kind for pair in found] == ["near"]


def test_thumbnails_of_28_pixels_are_told_apart_and_their_copies_found():
    small = {f"{seed}": photo(seed).resize((28, 28), Image.Resampling.BOX) for seed in range(COUNT)}
    files = {f"a/{name}": jpeg(picture, 95) for name, picture in small.items()}
    files |= {f"b/{name}": jpeg(picture, 80) for name, picture in small.items()}
    names, false = judged(search(files))
    assert not false and len(names) == COUNT


def test_all_copies_of_a_picture_hang_together_however_many():
    """More than a picture has neighbours, in clumps of one quality: nearest to each are those of its own clump."""
    files = {}
    for clump in range(6):
        for number in range(12):
            picture = ImageEnhance.Brightness(photo(5)).enhance(0.8 + 0.07 * clump + 0.0005 * number)
            files[f"{clump}-{number:02}.jpg"] = jpeg(picture, 95 - 8 * clump)
    together = DisjointSet(files)
    for pair in search(files):
        together.merge(pair.first, pair.second)
    assert together.n_subsets == 1


@pytest.mark.parametrize("thorough", [False, True])
def test_few_images_or_none(thorough):
    assert find_duplicates([], {}.__getitem__, thorough, progress=False) == []
    assert search({"a.jpg": jpeg(photo(1))}, thorough) == []


@pytest.mark.parametrize("thorough", [False, True])
def test_examples_that_nobody_looked_at_have_no_duplicates(thorough):
    bare = [Example("a", "x"), Example("b", "x"), Example("c", "x", sha256="1"), Example("d", "x", sha256="1")]
    assert find_duplicates(bare, {}.__getitem__, thorough, progress=False) == [Duplicate("c", "d", "exact", 1.0)]


@pytest.mark.parametrize("thorough", [False, True])
def test_pictures_that_show_nothing_are_no_duplicates(thorough):
    files = {f"{shade}.png": jpeg(Image.new("L", (90, 70), shade), format="PNG") for shade in range(0, 250, 25)}
    files["line.png"] = jpeg(Image.fromarray(np.full((2, 300), 7, np.uint8)), format="PNG")
    assert search(files, thorough) == []


@pytest.mark.parametrize("fault", ["gone", "cut off"])
def test_a_file_that_vanishes_or_breaks_meanwhile_is_passed_over_and_found_when_it_is_back(fault):
    files = {"a.jpg": jpeg(photo(1)), "b.jpg": jpeg(photo(1), 60), "c.jpg": jpeg(photo(2)), "d.jpg": jpeg(photo(2), 60)}

    def read(path: str) -> bytes:
        if path != "b.jpg":
            return files[path]
        if fault == "gone":
            raise FileNotFoundError(path)
        return files[path][:300]

    found = examples(files)
    for thorough in (False, True):
        pairs = find_duplicates(found, read, thorough, progress=False)
        assert [(pair.first, pair.second) for pair in pairs] == [("c.jpg", "d.jpg")]
    for thorough in (True, False):
        assert len(find_duplicates(found, files.__getitem__, thorough, progress=False)) == 2


def test_a_second_search_reads_no_file(monkeypatch):
    files = with_variants(photo, crop)
    found = examples(files)
    first = find_duplicates(found, files.__getitem__, True, progress=False)
    assert first

    def read(path: str) -> bytes:
        raise AssertionError(f"read {path} again")

    monkeypatch.setattr(duplicates, "grey", lambda *_: pytest.fail("decoded again"))
    assert find_duplicates(found, read, True, progress=False) == first


def test_the_order_of_the_examples_does_not_matter():
    files = with_variants(photo, AS_A_WHOLE["resaved"])
    shuffled = dict(random.Random(1).sample(list(files.items()), len(files)))
    assert search(files) == search(shuffled)


def test_the_summary_counts_kinds():
    pairs = [Duplicate("a", "b", "exact", 1.0), Duplicate("a", "c", "near", 0.97), Duplicate("d", "e", "near", 0.99)]
    assert summary(pairs).startswith("3 images show what another one shows (1 exact, 2 near);")


@pytest.mark.parametrize("turn", range(8))
def test_each_turn_has_the_one_that_undoes_it(turn):
    picture = np.arange(6).reshape(2, 3)
    back = duplicates._turn(duplicates._turn(picture, turn), duplicates.BACK[turn])
    np.testing.assert_array_equal(back, picture)


def test_a_thumbnail_shows_few_dots_and_is_empty_for_a_flat_picture():
    assert np.frombuffer(images.thumbnail(few_dots(1)), np.uint8).max() == 255
    assert not any(images.thumbnail(Image.new("L", (100, 80), 90)))
    nearly = Image.fromarray(np.random.default_rng(0).integers(90, 92, (320, 320), dtype="uint8"))
    assert not any(images.thumbnail(nearly))


@pytest.mark.parametrize("size", [(4000, 40), (40, 4000), (640, 480), (300, 200), (2, 2), (1, 9)])
def test_grey_keeps_the_shape_and_never_enlarges(size):
    found = images.grey(jpeg(Image.new("RGB", size, "red"), format="PNG"), 320 * 240)
    assert found.size <= 1.05 * 320 * 240 and found.shape[0] <= size[1] and found.shape[1] <= size[0]
    if min(size) > 30:
        assert found.shape[1] / found.shape[0] == pytest.approx(size[0] / size[1], rel=0.05)
