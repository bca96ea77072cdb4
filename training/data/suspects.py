"""Files among the images that may be none: masks, empty pictures, placeholders, icons."""

import statistics
from collections import defaultdict
from collections.abc import Sequence

from training.data.intake import Example

FLAT = 0.98  # share of an image's pixels in one or two of 16 shades of grey, from which it looks empty or like a mask
VARIED = 0.9  # share below which it surely does not
MANY_NAMES = 5  # the same bytes under so many names (or under three, in several classes) are a placeholder
TINY = 8  # times smaller than the middle one: an icon among photographs


def suspects(examples: Sequence[Example]) -> dict[str, str]:
    """By path, why an image may be none; see `_flat` for when a whole data set of drawings is none of that."""
    found: dict[str, str] = {}
    sizes = [max(example.facts.width, example.facts.height) for example in examples]
    usual = statistics.median(sizes) if sizes else 0
    for example, size in zip(examples, sizes, strict=True):
        if size * TINY <= usual:
            pixels = f"{example.facts.width} × {example.facts.height}"
            found[example.path] = f"tiny: {pixels} pixels among images of {usual:.0f}"
    by_content: dict[str, list[Example]] = defaultdict(list)
    for example in examples:
        by_content[example.sha256].append(example)
    for copies in by_content.values():
        if len(copies) >= MANY_NAMES or (len(copies) >= 3 and len({example.label for example in copies}) > 1):
            for example in copies:
                found.setdefault(example.path, f"placeholder: the same file under {len(copies)} names")
    for example in _flat(examples):
        empty = example.facts.commonest >= FLAT
        share = example.facts.commonest if empty else example.facts.two_commonest
        words = "empty: one shade of grey" if empty else "mask-like: two shades of grey"
        covered = "all" if share > 0.9995 else f"{100 * share:.1f} %"
        found.setdefault(example.path, f"{words} on {covered} of the picture")
    return dict(sorted(found.items()))


def _flat(examples: Sequence[Example]) -> list[Example]:
    """The flat ones, if they stand apart from the rest: where much lies between, the whole data set is drawings."""
    shares = [example.facts.two_commonest for example in examples]
    flat = [example for example, share in zip(examples, shares, strict=True) if share >= FLAT]
    varied = sum(share < VARIED for share in shares)
    between = len(shares) - len(flat) - varied
    return flat if varied >= len(shares) / 5 and between <= max(len(flat) / 2, len(shares) / 20) else []
