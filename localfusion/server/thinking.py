"""How long a model may think: an effort as a part of what it may write. Whether a model can think is not known here."""

from collections.abc import Mapping
from dataclasses import dataclass

from localfusion.messages import N_CTX_AUTO, AnyModel
from localfusion.wire.fusion import Effort

SHARES: Mapping[Effort, float] = {
    "max": 0.95,
    "xhigh": 0.95,
    "high": 0.8,
    "medium": 0.5,
    "low": 0.2,
    "minimal": 0.1,
    "none": 0.0,
}
"""The part of the tokens that thinking may take, as OpenRouter documents it."""


@dataclass(frozen=True, slots=True)
class Thinking:
    """Whether a model thinks, and for how many tokens at most."""

    is_on: bool
    max_tokens: int | None = None


def fitting(max_tokens: int | None, model: AnyModel) -> int:
    """Tokens that a model may be given to write: what was asked for, but half of its window at most."""
    window = N_CTX_AUTO if model.n_ctx == "auto" else model.n_ctx
    return window // 2 if max_tokens is None else min(max_tokens, window // 2)


def thinking(effort: Effort | None, max_thinking: int | None, *, max_tokens: int | None, model: AnyModel) -> Thinking:
    """A number of tokens wins over an effort; the effort "none" is no thinking at all."""
    if effort == "none":
        return Thinking(is_on=False)
    most = fitting(max_tokens, model)
    if max_thinking is not None:
        return Thinking(True, min(max_thinking, most))
    return Thinking(True, max(1, int(SHARES[effort or "medium"] * most)))
