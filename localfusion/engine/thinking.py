"""Keeps thinking apart from the answer while text is being written.

Knows the tag pairs that models use and splits a stream of text at them, never letting a part of a tag out.
Not here: how a template opens thinking (chat) and when it is cut short (generation).
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

Kind = Literal["content", "thinking"]


@dataclass(frozen=True, slots=True)
class ThinkingTags:
    """The text that opens thinking, the text that closes it, and what models write after that."""

    open: str
    close: str
    gap: str = "\n\n"


HARMONY = ThinkingTags("<|channel|>analysis<|message|>", "<|end|>", gap="<|start|>assistant")
HARMONY_TOKENS = {"<|channel|>", "<|message|>", "<|start|>"}
KNOWN_TAGS = (
    ThinkingTags("Here are my reasoning steps:\n", "[BEGIN FINAL RESPONSE]", gap="\n"),
    ThinkingTags("<think>", "</think>"),
    ThinkingTags("<thinking>", "</thinking>"),
    ThinkingTags("<thought>", "</thought>"),
    ThinkingTags("<reasoning>", "</reasoning>"),
    ThinkingTags("<seed:think>", "</seed:think>"),
    ThinkingTags("<mm:think>", "</mm:think>", gap=""),
    ThinkingTags("<think:opensource>", "</think:opensource>", gap=""),
    ThinkingTags("[THINK]", "[/THINK]", gap=""),
    ThinkingTags("<|START_THINKING|>", "<|END_THINKING|>", gap=""),
    ThinkingTags("<|inner_prefix|>", "<|inner_suffix|>", gap=""),
    ThinkingTags("<|channel>thought", "<channel|>", gap=""),
    HARMONY,
    ThinkingTags("<|open|>think<|sep|>", "<|close|>think<|sep|>", gap="<|open|>response<|sep|>"),
    ThinkingTags("<|think|>", "<|end|>", gap="<|begin|>assistant"),
    ThinkingTags(" to=self<|message|>", "<|eom|>", gap="<|start|>assistant"),
)
"""A pair that ends in a turn of its own has the start of the next turn as its gap."""


def find_tags(texts: Iterable[str], special_tokens: Iterable[str]) -> ThinkingTags | None:
    """The pair that the template and what it renders have, or whose two ends are tokens of the vocabulary."""
    tokens = set(special_tokens)
    whole = "\n".join(texts)
    for tags in KNOWN_TAGS:
        is_written = tags.open in whole and (tags.close in whole or tags.close == f"</{tags.open[1:]}")
        if is_written or {tags.open, tags.close} <= tokens:
            return tags
    return HARMONY if tokens >= HARMONY_TOKENS else None


class ThinkingSplitter:
    """Splits text that arrives in pieces of any size into thinking and content.

    Thinking is recognized only at the start (or where the prompt opened it, `inside`), once. The white
    space around the tags and the gap behind them belong to neither.
    """

    def __init__(self, tags: ThinkingTags | None, *, inside: bool = False) -> None:
        self._tags = tags
        self._state: Literal["start", "inside", "after", "content"] = "start"
        if tags is None:
            self._state = "content"
        elif inside:
            self._state = "inside"
        self._gap = "" if tags is None else tags.gap.strip()
        self._held = ""

    @property
    def is_thinking(self) -> bool:
        """The next text is thinking, as far as is known."""
        return self._state == "inside"

    @property
    def is_content(self) -> bool:
        """What is fed now is content, or may turn out to be."""
        return self._state in ("start", "content")

    def feed(self, text: str) -> list[tuple[Kind, str]]:
        """What can be said for sure now that `text` has arrived."""
        self._held += text
        pieces: list[tuple[Kind, str]] = []
        if self._state == "start":
            self._leave_start()
        if self._state == "inside":
            self._take_thinking(pieces)
        if self._state == "after":
            self._leave_gap()
        if self._state == "content" and self._held:
            pieces.append(("content", self._held))
            self._held = ""
        return pieces

    def finish(self) -> list[tuple[Kind, str]]:
        """What was held back, now that nothing follows."""
        held, self._held = self._held, ""
        if not held or self._state == "after":
            return []
        return [("thinking", held) if self._state == "inside" else ("content", held)]

    def _leave_start(self) -> None:
        assert self._tags is not None
        start = self._held.lstrip()
        if start.startswith(self._tags.open):
            self._held, self._state = start[len(self._tags.open) :], "inside"
        elif not self._tags.open.startswith(start):
            self._state = "content"

    def _leave_gap(self) -> None:
        self._held = self._held.lstrip()
        if self._gap and self._held.startswith(self._gap):
            self._held, self._gap = self._held.removeprefix(self._gap).lstrip(), ""
        if self._held and not (self._gap and self._gap.startswith(self._held)):
            self._state = "content"

    def _take_thinking(self, pieces: list[tuple[Kind, str]]) -> None:
        assert self._tags is not None
        thought, close, rest = self._held.partition(self._tags.close)
        if close:
            self._held, self._state = rest, "after"
        else:
            keep = overlap(self._held, self._tags.close)
            thought, self._held = self._held[: len(self._held) - keep], self._held[len(self._held) - keep :]
        if thought:
            pieces.append(("thinking", thought))


def overlap(text: str, mark: str) -> int:
    """Length of the longest end of `text` that could be the beginning of `mark` (not all of it)."""
    for length in range(min(len(text), len(mark) - 1), 0, -1):
        if text.endswith(mark[:length]):
            return length
    return 0
