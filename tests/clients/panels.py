"""Presets of micro models, and a model that cannot be loaded, for clients that ask for panels of all kinds."""

import json
from collections.abc import Mapping
from pathlib import Path

from tests.harbour import SHIPPED

SEARCH = {"max_results": 3, "max_characters": 260}
BRIEF = {"temperature": 0, "tools": {"enabled": ["web_search"], "web_search": SEARCH}}
"""What is a seat's own in the preset `micro`: what it reads there fits it."""
DAMAGED = "damaged"
"""The model that cannot be loaded."""


def preset(*panel: str, judge: str = "micro-judge") -> Mapping[str, object]:
    """A preset of models.yaml whose panelists search once, as those of `micro` do."""
    return {
        "max_tool_calls": 1,
        "panel": [{"model": model, **BRIEF} for model in panel],
        "judge": {"model": judge, "max_tool_calls": 0},
    }


def write_models(home: Path, presets: Mapping[str, object], aliases: Mapping[str, str]) -> Path:
    """A models.yaml with these, and a model whose file has every mark of a model but its architecture."""
    before, key, after = (SHIPPED / "micro-a.gguf").read_bytes().partition(b"general.architecture")
    (home / "damaged.gguf").write_bytes(before + key + after.replace(b"llama", b"lxama", 1))
    damaged = {"path": "damaged.gguf", "n_ctx": 2048, "n_threads": 1}
    path = home / "models.yaml"
    path.write_text(json.dumps({"models": {DAMAGED: damaged}, "presets": presets, "aliases": aliases}))
    return path
