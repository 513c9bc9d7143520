"""Write an invented world as a folder of real files: Markdown, text and HTML. PDF is left to a library."""

import html
from pathlib import Path

from scripts.micro.world import Document, World


def write_folder(world: World, folder: Path) -> dict[str, str]:
    """Write every document; maps each document's name to its file name."""
    folder.mkdir(parents=True, exist_ok=True)
    names: dict[str, str] = {}
    for document in world.documents:
        name = f"{document.name}.{document.format}"
        (folder / name).write_text(_content(document), encoding="utf-8")
        names[document.name] = name
    return names


def _content(document: Document) -> str:
    if document.format == "html":
        return _html(document)
    if document.format == "txt":
        return document.text.replace("# ", "") + "\n"
    return document.text + "\n"


def _html(document: Document) -> str:
    blocks = []
    for block in document.text.split("\n\n"):
        tag = "h1" if block.startswith("# ") else "p"
        blocks.append(f"<{tag}>{html.escape(block.removeprefix('# '))}</{tag}>")
    title = html.escape(document.name)
    body = "\n".join(blocks)
    return f"<!doctype html>\n<html lang=en><title>{title}</title><body><article>\n{body}\n</article></body></html>\n"
