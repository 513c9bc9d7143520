"""What a model wants to be told in front of a text that it embeds, by the model's names. Pure.

GGUF files do not say; this is what the models' own pages say. A model that is not known here is told nothing, which is
right for many (all-MiniLM, bge-m3, gte, jina) and costs the others some quality.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from localfusion.gguf_header import Value
from localfusion.messages import TextKind

NAMES = ("general.architecture", "general.name", "general.basename")
_SEARCHING = "Represent this sentence for searching relevant passages: "
_TASK = "Instruct: Given a web search query, retrieve relevant passages that answer the query\nQuery:"


@dataclass(frozen=True, slots=True)
class Prefixes:
    """What stands in front of a query and of a passage."""

    query: str = ""
    passage: str = ""

    def of(self, kind: TextKind) -> str:
        return self.query if kind == "query" else self.passage


NO_PREFIXES = Prefixes()
KNOWN: tuple[tuple[str, Prefixes], ...] = (
    (r"e5\b.*-instruct|e5-mistral", Prefixes(f"{_TASK} ")),
    (r"qwen3-embedding", Prefixes(_TASK)),
    (r"gemma-embedding|embeddinggemma", Prefixes("task: search result | query: ", "title: none | text: ")),
    (r"arctic-embed.*v2", Prefixes("query: ")),
    (r"arctic-embed|mxbai-embed|bge-(?:micro|small|base|large)-en", Prefixes(_SEARCHING)),
    (r"bge-(?:small|base|large)-zh", Prefixes("为这个句子生成表示以用于检索相关文章\uff1a")),
    (r"nomic-(?:bert|embed)", Prefixes("search_query: ", "search_document: ")),
    (r"\be5-|multilingual-e5", Prefixes("query: ", "passage: ")),
)
"""A pattern over the names, parted by spaces, and what is said; the first that is found counts."""


def prefixes_of(metadata: Mapping[str, Value], path: Path) -> Prefixes:
    """By architecture, by the names in the header and by that of the file: converters fill in now one, now another."""
    names = [*(metadata.get(name, "") for name in NAMES), path.stem]
    text = " ".join(re.sub(r"[\s_]+", "-", str(name).lower()) for name in names)
    return next((prefixes for pattern, prefixes in KNOWN if re.search(pattern, text)), NO_PREFIXES)
