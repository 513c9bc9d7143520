"""Logarithms of probabilities as both protocols write them, token by token."""

from collections.abc import Iterable

from localfusion.messages import Likely, TokenLogprobs
from localfusion.wire.document import Part


class LikelyPart(Part):
    """`bytes` are the token; `token` is its text, in which what is no UTF-8 by itself is replaced."""

    token: str
    bytes: list[int]
    logprob: float


class LogprobPart(LikelyPart):
    top_logprobs: list[LikelyPart]


def logprob_parts(tokens: Iterable[TokenLogprobs]) -> list[LogprobPart]:
    """Each token that was written, with the likeliest at its place."""
    return [_written(token) for token in tokens]


def _written(token: TokenLogprobs) -> LogprobPart:
    chosen = _likely(token.chosen)
    return LogprobPart(
        token=chosen.token,
        bytes=chosen.bytes,
        logprob=chosen.logprob,
        top_logprobs=[_likely(other) for other in token.top],
    )


def _likely(likely: Likely) -> LikelyPart:
    text = likely.token.decode("utf-8", errors="replace")
    return LikelyPart(token=text, bytes=list(likely.token), logprob=likely.logprob)
