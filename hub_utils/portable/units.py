"""Figures with their units, for people: in as many digits as tell two alike ones apart."""

from __future__ import annotations


def in_bytes(count: float) -> str:
    """Bytes in words, as the Hub shows them."""
    for unit in ("bytes", "kB", "MB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} GB"


def in_milliseconds(value: float) -> str:
    return f"{value:.1f} ms" if value >= 1 else f"{value:.2g} ms"
