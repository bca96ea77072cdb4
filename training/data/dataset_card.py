"""The card of a published data set: README.md, from numbers and from what the recipe says; no file has a name in it.

Whatever comes from a person goes through `markdown.as_text`.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from hub_utils.portable.markdown import (
    MOST,
    as_code,
    as_link,
    as_list,
    as_prose,
    as_table,
    as_text,
    counted,
    folded,
    one_line,
)
from training.data.findings import ALIKE
from training.data.intake import Skipped
from training.data.licence import card_facts, is_own
from training.data.report import floor_line
from training.data.shards import Written, features
from training.data.splits import SPLITS
from training.data.strip import HOW
from training.data.survey import Survey

MARK = "published-by-push-dataset"  # the tag by which a later push knows the repo for one of ours
SIZES = ((10**3, "n<1K"), (10**4, "1K<n<10K"), (10**5, "10K<n<100K"), (10**6, "100K<n<1M"), (10**7, "1M<n<10M"))
PUBLIC = re.compile(r"(https?|kaggle|osf|sklearn):")  # of a source; the path of a folder is nobody's business
LOST = {  # of `strip.KINDS`, what they are in a sentence
    "GPS": "the place where they were taken (GPS)",
    "EXIF": "EXIF data (camera, date, names)",
    "XMP": "XMP data",
    "IPTC": "IPTC data (captions, authors)",
    "text": "comments, texts and dates",
    "colour profile": "a colour profile, which no network heeds (other programs may show paler colours without it)",
    "thumbnail": "a thumbnail",
    "frames": "further pictures or frames",
    "trailing bytes": "bytes behind the picture",
    "other": "other data of programs and makers",
}


def card_text(survey: Survey, written: Written, folder: Path, repo_id: str, licence: str | None = None) -> str:
    """README.md of a data set that will be called `repo_id`; `licence` is what the user states, if anything.

    `folder` holds the files that `written` names.
    """
    sections = [
        f"# {as_text(_title(survey, repo_id))}",
        _introduction(survey),
        _source(survey, licence),
        _use(survey, repo_id),
        _classes(survey, written),
        _findings(survey),
        _files(written),
    ]
    return f"---\n{_front_matter(survey, written, folder, repo_id, licence)}\n---\n\n" + "\n\n".join(sections) + "\n"


def _title(survey: Survey, repo_id: str) -> str:
    """A folder's own name may be nobody's business."""
    own = survey.recipe.name == "folder"
    return repo_id.rpartition("/")[2] if own else one_line(survey.recipe.title)


def _front_matter(survey: Survey, written: Written, folder: Path, repo_id: str, licence: str | None) -> str:
    from datasets import DatasetInfo, SplitDict, SplitInfo
    from datasets.info import DatasetInfosDict
    from huggingface_hub import DatasetCardData

    rows = Counter(row.split for row in survey.rows)
    splits = SplitDict({name: SplitInfo(name, written.image_bytes[name], rows[name]) for name in SPLITS})
    info = DatasetInfo(
        features=features(written),
        splits=splits,
        download_size=sum((folder / name).stat().st_size for names in written.files.values() for name in names),
        dataset_size=written.image_bytes.total(),
    )
    data = DatasetCardData(
        **card_facts(survey.recipe, licence),
        pretty_name=_title(survey, repo_id),
        task_categories=["image-classification"],
        size_categories=[next((name for most, name in SIZES if len(survey.rows) < most), "n>10M")],
        tags=[MARK],
        # Files of an earlier, longer push may lie beside these: what is not named here is not read.
        configs=[
            {
                "config_name": "default",
                "data_files": [{"split": split, "path": written.files[split]} for split in SPLITS],
            }
        ],
    )
    DatasetInfosDict({"default": info}).to_dataset_card_data(data)
    return data.to_yaml()


def _introduction(survey: Survey) -> str:
    images = counted(len(survey.rows), "image")
    labels = len({row.label for row in survey.rows})
    return (
        f"{images} in {labels:,} classes for image classification, divided into training, validation and test images "
        "such that no picture, and no near copy of one, stands on two sides. The test images are for measuring a "
        "model at the very end."
    )


def _source(survey: Survey, licence: str | None) -> str:
    recipe = survey.recipe
    lines = ["## Source and licence", ""]
    where = [each for each in (recipe.data.homepage, recipe.data.source) if each and PUBLIC.match(each)]
    if where:
        lines.append(f"- Source: {as_link(where[0]) or as_text(where[0])}")
    elif is_own(recipe):
        lines.append("- Source: images of whoever published this data set")
    said = licence or (None if is_own(recipe) else recipe.card.data_license)
    lines.append(f"- Licence of the images: {as_text(said) if said else 'none stated'}")
    if licence and not is_own(recipe):
        lines.append(f"- What is known of the original's licence: {as_text(recipe.card.data_license)}")
    if recipe.card.citation:
        lines.append(f"- Citation: {as_prose(recipe.card.citation)}")
    lines.append("- Changed: metadata removed and images renamed, as told below")
    return "\n".join(lines)


def _use(survey: Survey, repo_id: str) -> str:
    return f"""## How to use it

```python
from datasets import load_dataset

dataset = load_dataset("{repo_id}")
dataset["train"][0]["image"], dataset["train"].features["label"].names
```

```
accelerate launch -q training/train.py folder --dataset {repo_id}
accelerate launch -q training/train.py folder --dataset {repo_id} --streaming
```"""


def _classes(survey: Survey, written: Written) -> str:
    counts = Counter((row.label, row.split) for row in survey.rows)
    lines = [
        [as_text(name), *(f"{counts[name, split]:,}" for split in SPLITS), f"{_total(counts, name):,}"]
        for name in written.names
    ]
    sums = Counter(row.split for row in survey.rows)
    lines.append(["**all**", *(f"{sums[split]:,}" for split in SPLITS), f"{len(survey.rows):,}"])
    table = as_table(["class", *SPLITS, "all"], lines)
    own = (
        "The data brought splits of its own, which are kept; what was missing was drawn by lot, each class alike."
        if survey.brings_splits
        else "The splits were drawn by lot, each class alike."
    )
    if written.groups:
        own += (
            f" The images come from {counted(written.groups, 'group')} (patients, say), each on one side only. The "
            f"column {as_code('group')} numbers them in the order of the files; their names are not published."
        )
    if draws_splits(survey):
        own += (
            " A later revision, with images added or taken away, draws them anew, and images may move between training "
            "and test: train and test on one revision."
        )
    return f"## Classes and splits\n\n{own}\n\n" + (folded("Counts", table) if len(lines) > MOST else table)


def draws_splits(survey: Survey) -> bool:
    """Whether any split was drawn by lot, which comes out differently once an image is added or taken away."""
    return not {"validation", "test"} <= {example.split for example in survey.examples}


def _total(counts: Counter, label: str) -> int:
    return sum(counts[label, split] for split in SPLITS)


def _findings(survey: Survey) -> str:
    """What the data report found, in numbers."""
    lines = []
    kinds = Counter(pair.kind for pair in survey.duplicates)
    told = ", ".join(f"{kinds[kind]:,} {kind} ({words})" for kind, words in ALIKE.items() if kinds[kind])
    if told:
        lines.append(f"Images that show what another one shows, kept on one side with their like: {told}.")
    else:
        lines.append("No copies were found.")
    if not survey.thorough:
        lines[-1] += " Crops, mirrored pictures and overlapping views were not looked for."
    if survey.conflicts:
        found = counted(len(survey.conflicts), "picture stands", "pictures stand")
        lines.append(f"{found} in two classes at once; one of the labels is wrong. They are in training only.")
    if survey.suspects:
        found = counted(len(survey.suspects), "image looks", "images look")
        lines.append(f"{found} like a mask, a placeholder or an empty picture.")
    for what, skipped in (("not images, or unusable", survey.skipped), ("of the wrong side", survey.left_out)):
        if skipped:
            lines.append(f"Left out as {what}: {_kinds(skipped)}.")
    if survey.floors:
        lines.append(
            f"What can be scored on the test images without looking at them: {as_text(floor_line(survey.floors))} "
            "(with 95 % intervals). A model has to beat that."
        )
    return "## What was found in it\n\n" + "\n".join(f"- {line}" for line in lines)


def reasons(skipped: Sequence[Skipped]) -> list[tuple[str, int]]:
    """Kinds of reasons, without the names that stand behind the colon, and how many of each."""
    return Counter(each.reason.partition(":")[0] for each in skipped).most_common()


def _kinds(skipped: Sequence[Skipped]) -> str:
    return "; ".join(f"{count:,} × {as_text(kind)}" for kind, count in reasons(skipped))


def _files(written: Written) -> str:
    lines = [f"- {counted(count, 'image')}: {HOW[how]}" for how, count in written.how.most_common()]
    lines += [
        f"- {LOST[kind]}: removed from {counted(count, 'image')}" for kind in LOST if (count := written.found[kind])
    ]
    columns = as_list([as_code(name) for name in features(written)])
    return "\n".join(
        [
            "## What was done to the files",
            "",
            f"Images stand in Parquet files, as {columns}, in an order that says nothing. Names of files and folders, "
            "and of groups, are not published. What is in the pixels is: nobody has looked for faces, or for names "
            "that are burnt into a scan.",
            "",
            *lines,
        ]
    )
