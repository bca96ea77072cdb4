"""Which models are of patients' images, and what they are not, in the words that card, page and API say alike."""

from __future__ import annotations

from pathlib import Path

from hub_utils.portable.facts import read_facts, told

NOT_A_DEVICE = (
    "This model is a study of image classification. It must not be used to diagnose, to screen or to choose a "
    "treatment, nor to reassure or alarm anybody, neither alone nor as a second opinion."
)


def is_medical(folder: Path) -> bool:
    """Whether the recipe in a model's folder says so; not of a stranger's model, which has none."""
    return bool((told(read_facts(folder / "recipe.json"), "recipe", "card", of=dict) or {}).get("medical"))
