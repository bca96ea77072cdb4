"""The report on a data set: `report.md` for people, `report.json` for programs, and plots."""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path

import numpy as np

from hub_utils.portable.image_files import SYSTEM_FILES
from hub_utils.portable.whole import write_json, write_text
from training.data.convert import RULES
from training.data.duplicates import Duplicate
from training.data.findings import ALIKE, SEVERITIES, Finding, findings
from training.data.intake import Skipped
from training.data.splits import SPLITS
from training.data.survey import Survey
from training.data.suspects import FLAT
from training.recipe import UserError
from training.results.floors import Floor
from training.whole import whole_folder

KIND, VERSION = "image data report", 1
WRITTEN = {"report.md", "report.json", "plots"}
NAMED = 4  # files, or sets of files, that the text names; report.json has all of them
LISTED = 20  # lines of a table in the text
FLOORS = {
    "majority": "always saying '{says}'",
    "colours": "the nearest image by 15 colour statistics",
    "files": "size and kind of file alone",
}


def check_output(output: Path, roots: Sequence[Path]) -> None:
    """Refuse to write into the data, over anything that is no report of ours, or where nothing can be written.

    Raises:
        UserError: so it is.
    """
    try:
        here = output.resolve()
    except (OSError, RuntimeError) as error:  # a link to itself, up to Python 3.12
        raise UserError(f"--output '{output}' leads nowhere: {error}; choose another folder") from error
    for root in roots:
        data = root.resolve()
        if here == data or data in here.parents or here in data.parents:
            raise UserError(f"--output '{output}' and the data '{root}' lie in each other; choose a folder apart")
    if output.exists() and not output.is_dir():
        raise UserError(f"--output '{output}' is a file; give a folder")
    if output.is_dir():
        found = {path.name for path in output.iterdir() if path.name.lower() not in SYSTEM_FILES}
        if found and not (_is_ours(output) and found <= WRITTEN):
            raise UserError(
                f"--output '{output}' holds something else than a report of ours; choose a folder that is new or empty"
            )
    above = next(path for path in here.parents if path.exists())
    if not above.is_dir() or not os.access(above, os.W_OK):
        raise UserError(f"--output '{output}': '{above}' cannot be written to; choose another folder")


def _is_ours(output: Path) -> bool:
    try:
        return json.loads((output / "report.json").read_text(encoding="utf-8"))["kind"] == KIND
    except (OSError, ValueError, LookupError, TypeError):
        return False


def write_report(
    survey: Survey, output: Path, progress: bool = True, written: Callable[[Path], None] = lambda folder: None
) -> list[Finding]:
    """Write the report, whole or not at all; an earlier one is replaced. Returns what it found.

    `written` is called with the folder in which it lies complete, before that takes its place.

    Raises:
        UserError: it cannot be written, or an image is gone meanwhile.
    """
    found = findings(survey)
    facts = to_dict(survey, found)
    with whole_folder(output) as folder:
        plots = _plots(survey, folder / "plots", progress)
        write_text(_markdown(survey, found, facts, plots), folder / "report.md")
        write_json(facts, folder / "report.json", indent=1)
        written(folder)
    return found


def verdict(found: Sequence[Finding]) -> list[str]:
    """The findings in short, numbered lines for a terminal."""
    lines = []
    for number, each in enumerate(found, 1):
        lines.append(f"{number}. {each.what}")
        if each.severity != "hint":
            lines.append(f"   {each.to_do}")
        if each.severity in ("wrong", "lost"):
            lines += [f"   - {_joined(each, file)}{_note(each, file)}" for file in _first(each)]
            lines += [f"   - and {len(each.files) - NAMED:,} more"] if len(each.files) > NAMED else []
    if not is_wrong(found):
        lines.insert(0, "nothing is wrong with these images" + (", but:" if lines else ""))
    return lines


def _joined(finding: Finding, files: Sequence[str], show: Callable[[str], str] = str) -> str:
    """The first of files that belong together, and how many more there are."""
    more = f" and {len(files) - NAMED:,} more" if len(files) > NAMED else ""
    return finding.tie.join(show(name) for name in files[:NAMED]) + more


def is_wrong(found: Iterable[Finding]) -> bool:
    """Whether there is more than hints."""
    return any(each.severity != "hint" for each in found)


def floor_line(floors: dict[str, Floor]) -> str:
    """`always saying 'rose' 20 % (15 to 26 %), …`: what a network has to beat."""
    return "; ".join(f"{FLOORS[name].format(says=floor.says)} {_percent(floor)}" for name, floor in floors.items())


def in_classes(labels: Collection[str]) -> str:
    """`in 5 classes`; images without a label have the label ""."""
    if set(labels) == {""}:
        return "without classes"
    return f"in {len(labels):,} {'class' if len(labels) == 1 else 'classes'}"


def to_dict(survey: Survey, found: Sequence[Finding]) -> dict:
    """What `report.json` says: every number and every list whole."""
    split_of = {row.path: row.split for row in survey.rows}
    images = Counter(example.label for example in survey.examples)
    counts = Counter((example.label, split_of.get(example.path, "left out")) for example in survey.examples)
    return {
        "kind": KIND,
        "version": VERSION,
        "recipe": survey.recipe.name,
        "source": survey.source.to_dict(),
        "thorough": survey.thorough,
        "images": len(survey.examples),
        "different_images": len(survey.examples) - sum(len(cluster) - 1 for cluster in survey.clusters),
        "groups": len({example.group for example in survey.examples if example.group}),
        "verdict": [asdict(each) for each in found],
        "classes": {
            label: {"images": count, **({split: counts[label, split] for split in SPLITS} if survey.rows else {})}
            for label, count in images.most_common()
        },
        "splits": {split: sum(row.split == split for row in survey.rows) for split in SPLITS},
        "own_splits": dict(Counter(example.split or "none" for example in survey.examples)),
        "floors": {name: asdict(floor) for name, floor in survey.floors.items()},
        "colours_with_splits_by_lot": asdict(survey.shuffled_colours) if survey.shuffled_colours else None,
        "sizes": _sizes(survey),
        "modes": dict(Counter(example.facts.mode for example in survey.examples).most_common()),
        "formats": dict(Counter(example.facts.format for example in survey.examples).most_common()),
        "skipped": [asdict(each) for each in survey.skipped],
        "left_out_of_splits": [asdict(each) for each in survey.left_out],
        "duplicates": [
            {
                **asdict(pair),
                "labels": [survey.by_path[path].label for path in (pair.first, pair.second)],
                "own_splits": [survey.by_path[path].split for path in (pair.first, pair.second)],
            }
            for pair in survey.duplicates
        ],
        "label_conflicts": [[example.path for example in cluster] for cluster in survey.conflicts],
        "leaks": [[example.path for example in cluster] for cluster in survey.leaks],
        "torn_groups": {name: [each.path for each in members] for name, members in survey.torn_groups.items()},
        "suspects": survey.suspects,
        "odd": survey.odd,
    }


def _sizes(survey: Survey) -> dict:
    sides = {side: [getattr(example.facts, side) for example in survey.examples] for side in ("width", "height")}
    quantiles = {
        side: dict(zip(("smallest", "middle", "largest"), np.quantile(values, (0, 0.5, 1)).tolist(), strict=True))
        for side, values in sides.items()
    }
    common = Counter(zip(*sides.values(), strict=True)).most_common()
    return {**quantiles, "different": len(common), "commonest": {f"{w} × {h}": n for (w, h), n in common[:LISTED]}}


def _plots(survey: Survey, folder: Path, progress: bool) -> dict[str, list[str]]:
    """Names of the plots by what they show; none for what does not occur."""
    from tqdm.auto import tqdm

    from training.results.data_plots import plot_classes, plot_duplicates, plot_sizes, plot_suspects

    read = survey.source.reader()
    plots: dict[str, list[str]] = {}
    torn = {example.path for cluster in survey.conflicts for example in cluster}
    leaking = {example.path for cluster in survey.leaks for example in cluster}

    def rank(pair) -> tuple:
        labels = {survey.by_path[path].label for path in (pair.first, pair.second)}
        return len(labels) == 1, pair.first not in torn, pair.first not in leaking, pair.kind, -pair.similarity

    pairs = _varied(sorted(survey.duplicates, key=rank), survey)
    bar = tqdm(total=4, desc="Drawing", unit=" plots", leave=False, disable=not progress or None)
    with bar, ThreadPoolExecutor(1) as pool:
        # Pillow lets go of the interpreter's lock, matplotlib does not: together they take as long as one of them.
        duplicates = pool.submit(plot_duplicates, pairs, survey.by_path, read, folder)
        suspects = pool.submit(plot_suspects, survey.suspects, read, folder)
        plot_classes(survey.examples, survey.rows, folder / "classes.png")
        plots["classes"] = ["classes.png"]
        bar.update()
        if len({(example.facts.width, example.facts.height) for example in survey.examples}) > 1:
            plot_sizes(survey.examples, folder / "sizes.png")
            plots["sizes"] = ["sizes.png"]
        bar.update()
        plots["duplicates"] = [path.name for path in duplicates.result()]
        bar.update()
        plots["suspects"] = [path.name for path in suspects.result()]
        bar.update()
    return plots


def _varied(pairs: list[Duplicate], survey: Survey) -> list[Duplicate]:
    """Two pairs of every cluster come first, so that one placeholder under a thousand names does not hide the rest."""
    number_of = {example.path: number for number, cluster in enumerate(survey.clusters) for example in cluster}
    seen = Counter()
    late = {}
    for pair in pairs:
        seen[number_of[pair.first]] += 1
        late[pair] = seen[number_of[pair.first]] > 2
    return sorted(pairs, key=late.get)


# report.md


def _markdown(survey: Survey, found: Sequence[Finding], facts: dict, plots: dict[str, list[str]]) -> str:
    parts = [
        *_head(survey, facts),
        *_verdict(survey, found),
        *_classes(survey, facts, plots),
        *_floors(survey),
        *_files(facts, plots),
        *_duplicates(survey, plots),
        *_suspects(survey, plots),
        *_odd(survey),
        *_skipped("Skipped files", "Neither trained on nor tested.", survey.skipped),
        *_skipped(
            "Left out of the splits", "The data puts them on the wrong side; `train.py` does without.", survey.left_out
        ),
        *_method(survey),
    ]
    return "\n".join(parts) + "\n"


def _head(survey: Survey, facts: dict) -> list[str]:
    where = " · ".join(str(value) for value in survey.source.to_dict().values() if value)
    different = f" ({facts['different_images']:,} different ones)" if survey.duplicates else ""
    groups = f" from {facts['groups']:,} groups (patients)" if facts["groups"] else ""
    return [
        f"# Data report: {survey.recipe.title}",
        "",
        f"{facts['images']:,} images{different} {in_classes(facts['classes'])}{groups}, in {_code(where)}.",
        "",
        "This report shows images of the data set. It is for your eyes: do not upload it, least of all with patients' "
        "images. Complete lists are in `report.json`.",
        "",
    ]


def _verdict(survey: Survey, found: Sequence[Finding]) -> list[str]:
    lines = ["## Verdict", ""]
    if not is_wrong(found):
        lines += ["**Nothing is wrong with these images.**", ""]
    for number, each in enumerate(found, 1):
        inside = " " * len(f"{number}. ")  # as far in as the text, or it would not belong to the point
        lines.append(f"{number}. **{_plain(each.what)}.** *({SEVERITIES[each.severity]})* {_plain(each.why)}  ")
        lines.append(f"{inside}To do: {_plain(each.to_do)}.")
        for file in _first(each):
            lines.append(f"{inside}- {_joined(each, file, _code)}{_plain(_note(each, file))}")
        if len(each.files) > NAMED:
            lines.append(f"{inside}- and {len(each.files) - NAMED:,} more")
    return [*lines, ""]


def _classes(survey: Survey, facts: dict, plots: dict[str, list[str]]) -> list[str]:
    columns = ["images", *(SPLITS if survey.rows else ())]
    rows = [
        [_code(label or "no class"), *(counts[column] for column in columns)]
        for label, counts in facts["classes"].items()
    ]
    own = ""
    if survey.brings_splits:
        told = ", ".join(f"{count:,} {split}" for split, count in facts["own_splits"].items())
        own = f" The data brings splits of its own ({told}), which are kept."
    words = f"Training, validation and test as `train.py` will use them.{own}" if survey.rows else own.strip()
    return ["## Classes", "", words, "", *_embed(plots, "classes"), *_table(["class", *columns], rows, 200)]


def _floors(survey: Survey) -> list[str]:
    if not survey.floors:
        return []
    rows = [
        [FLOORS[name].format(says=_plain(floor.says or "")), _percent(floor)] for name, floor in survey.floors.items()
    ]
    if survey.shuffled_colours:
        rows.append([f"{FLOORS['colours']}, splits drawn by lot", _percent(survey.shuffled_colours)])
    images = survey.floors["majority"].images
    return [
        "## Floors: what can be scored without looking",
        "",
        f"Accuracy on the {images:,} test images, with 95 % intervals (Wilson). A network that scores no more than "
        "these has learnt nothing about what the pictures show.",
        "",
        *_table(["rule", "right"], rows),
        "The last line ignores copies and groups, as most published splits do: what it scores more than the second, "
        "beyond what the intervals leave open, it owes to pictures that it has seen.",
        "",
    ]


def _files(facts: dict, plots: dict[str, list[str]]) -> list[str]:
    sizes = facts["sizes"]
    rows = [[side, *(f"{sizes[side][which]:.0f}" for which in sizes[side])] for side in ("width", "height")]
    kinds = [[kind, name or "?", count] for kind in ("format", "mode") for name, count in facts[f"{kind}s"].items()]
    return [
        "## Sizes and kinds of files",
        "",
        f"{sizes['different']:,} different {'size' if sizes['different'] == 1 else 'sizes'}, in pixels.",
        "",
        *_embed(plots, "sizes"),
        *_table(["", "smallest", "middle", "largest"], rows),
        *_table(["", "", "images"], kinds),
    ]


def _duplicates(survey: Survey, plots: dict[str, list[str]]) -> list[str]:
    if not survey.duplicates:
        return ["## Duplicates", "", "None were found.", ""]
    kinds = Counter(pair.kind for pair in survey.duplicates)
    rows = [
        [pair.kind, f"{pair.similarity:.2f}", *(_described(survey, path) for path in (pair.first, pair.second))]
        for pair in survey.duplicates
    ]
    return [
        "## Duplicates",
        "",
        "; ".join(f"{kinds[kind]:,} × {kind} ({words})" for kind, words in ALIKE.items() if kinds[kind]) + ".",
        "",
        *_embed(plots, "duplicates"),
        *_table(["kind", "similarity", "first", "second"], rows),
    ]


def _described(survey: Survey, path: str) -> str:
    """A path, and what of label and split its folder may not say."""
    example = survey.by_path[path]
    return f"{_code(path)} ({_plain(', '.join(word for word in (example.label, example.split) if word))})"


def _suspects(survey: Survey, plots: dict[str, list[str]]) -> list[str]:
    if not survey.suspects:
        return []
    rows = [[_code(path), _plain(survey.by_path[path].label), why] for path, why in survey.suspects.items()]
    heading = ["## Masks, placeholders and other strangers", "", *_embed(plots, "suspects")]
    return [*heading, *_table(["file", "class", "why"], rows)]


def _odd(survey: Survey) -> list[str]:
    if not survey.odd:
        return []
    rows = [[_code(path), RULES[kind]] for path, kind in survey.odd.items()]
    words = "They are used as `pipeline` would see them; `--convert` would write them so."
    return ["## Odd files", "", words, "", *_table(["file", "what, and what becomes of it"], rows)]


def _skipped(heading: str, words: str, skipped: Sequence[Skipped]) -> list[str]:
    if not skipped:
        return []
    rows = [[_code(each.path), _plain(each.reason)] for each in skipped]
    return [f"## {heading}", "", words, "", *_table(["file", "why"], rows)]


def _method(survey: Survey) -> list[str]:
    searched = (
        "Exact, resaved, resized and mirrored copies, crops and overlapping views were looked for."
        if survey.thorough
        else "Exact, resaved and resized copies were looked for; crops, mirrored pictures and overlapping views were "
        "not: `--thorough` does."
    )
    return [
        "## How this was found",
        "",
        f"- {searched}",
        f"- A file looks like a mask or empty if one or two of 16 shades of grey cover {100 * FLAT:.0f} % of it, while "
        "others are far from that; where much lies between (drawings, scans), nothing is said. Masks of more shades "
        "are not found so; those that are named as masks of an image beside them are skipped anyway.",
        "- The colour rule compares mean, deviation and quartiles of red, green and blue, each in units of its "
        "deviation in training, and answers the class of the nearest training image.",
        f"- Deep images (16 bits and more) are never used as they are. `--convert COPY` writes: {RULES['deep']}. "
        "`--window LOW HIGH` fixes the window where values mean something of themselves.",
    ]


def _table(heads: Sequence[str], rows: Sequence[Sequence], most: int = LISTED) -> list[str]:
    """A Markdown table; what is beyond `most` lines is in report.json."""
    lines = [f"| {' | '.join(heads)} |", f"|{'---|' * len(heads)}"]
    lines += [f"| {' | '.join(str(cell).replace('|', chr(92) + '|') for cell in row)} |" for row in rows[:most]]
    more = [f"{len(rows) - most:,} more are in `report.json`.", ""] if len(rows) > most else []
    return [*lines, "", *more]


def _embed(plots: dict[str, list[str]], what: str) -> list[str]:
    return [line for name in plots.get(what, ()) for line in (f"![{what}](plots/{name})", "")]


def _note(finding: Finding, file: list[str]) -> str:
    note = finding.notes.get(file[0])
    return f" ({note})" if note else ""


def _first(finding: Finding) -> list[list[str]]:
    return finding.files[:NAMED]


def _code(text: str) -> str:
    """Text as it is, whatever signs are in it: fenced with more backticks than it has, on one line."""
    text = re.sub(r"\s", " ", text)
    fence = "`" * (1 + max((len(run) for run in re.findall("`+", text)), default=0))
    space = " " if text.startswith("`") or text.endswith("`") else ""
    return f"{fence}{space}{text}{space}{fence}"


def _plain(text: str) -> str:
    """Words with names in them, of which no sign is taken for Markdown or HTML; what is in backticks stays code.

    As little as will do is escaped, for the report is read as plain text too: a_b is no emphasis, _a is.
    """
    text = re.sub(r"\s", " ", text)
    return re.sub(r"(`[^`]*`)|([*<]|\b_|_\b(?!\w)|(?<=\])\()", lambda m: m[1] or f"\\{m[2]}", text)


def _percent(floor: Floor) -> str:
    return f"{100 * floor.accuracy:.0f} % ({100 * floor.low:.0f} to {100 * floor.high:.0f} %)"
