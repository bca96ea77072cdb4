"""What a model's own files say of it: how well it does, on what, where it fails, and under which licence."""

from __future__ import annotations

import gradio as gr

from hub_utils.portable.served import Served


def about(served: Served) -> None:
    """Draw it, inside an open `gr.Blocks`."""
    gr.HTML(f"<p>{served.name}</p>", apply_default_css=False)
