"""The data set that needs no download: scikit-learn's handwritten digits, written out as an image folder."""

from pathlib import Path

from hub_utils.portable.whole import move, temporary


def write_digits(folder: Path) -> None:
    """Write 1,797 grey PNGs of 8 × 8 pixels as `folder`/<digit>/<index>.png; either all of them or nothing."""
    from PIL import Image
    from sklearn.datasets import load_digits

    digits = load_digits()
    with temporary(folder) as partial:
        partial.mkdir()
        for index, (pixels, label) in enumerate(zip(digits.images, digits.target, strict=True)):
            path = partial / str(label) / f"{index:04}.png"
            path.parent.mkdir(exist_ok=True)
            # Ink is 0 to 16; written as paper and pencil are, dark on white.
            Image.fromarray((255 - pixels * 255 / 16).round().astype("uint8")).save(path)
        try:
            move(partial, folder)
        except OSError:
            if not folder.is_dir():  # if it is there now, another process was quicker, and its digits are these
                raise
