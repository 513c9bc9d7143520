"""What a run may still spend on cloud models: room is reserved before each request and settled after it.

The sums of one run, kept in one event loop. Who finds too little because others have put it by waits for them. Nothing
is sent from here, and prices are the catalogue's.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

from localfusion.errors import LimitReached
from localfusion.messages import CloudLeave, Prices, RemoteModel, Usage

SHORT_ANSWER_TOKENS = 32
"""A request that could pay for fewer tokens than this, and wants more, is not sent."""
_MILLION = 1_000_000


def price(prices: Prices, *, prompt_tokens: int, completion_tokens: int, cached_tokens: int = 0) -> Fraction:
    """What a request costs in US dollars; `cached_tokens` are of the `prompt_tokens`."""
    cached = min(cached_tokens, prompt_tokens)
    at_cache = prices.prompt if prices.cached is None else prices.cached
    parts = (
        (prompt_tokens - cached) * Fraction(prices.prompt),
        cached * Fraction(at_cache),
        completion_tokens * Fraction(prices.completion),
    )
    return sum(parts, Fraction(0)) / _MILLION


def worst(prices: Prices) -> Prices:
    """The same prices where the cache is no help: a provider may take more for what it puts there."""
    return Prices(max(prices.prompt, prices.cached or 0.0), prices.completion)


def affordable(
    *, prompt_tokens: int, wanted: int, prices: Prices | None, tokens_left: int | None, cost_left: Fraction | None
) -> int:
    """How many of the `wanted` tokens may be written so that the worst case stays within what is left; may be 0."""
    most = wanted
    if tokens_left is not None:
        most = min(most, tokens_left - prompt_tokens)
    if cost_left is not None and prices is not None:
        dear = worst(prices)
        over = cost_left - price(dear, prompt_tokens=prompt_tokens, completion_tokens=0)
        if over < 0:
            return 0
        if dear.completion > 0:
            most = min(most, int(over * _MILLION / Fraction(dear.completion)))
    return max(most, 0)


@dataclass(frozen=True, slots=True)
class Reservation:
    """Room for one request, until it is settled: tokens in all, how many of them to write, and dollars at worst."""

    tokens: int
    completion_tokens: int
    cost: Fraction


class Spending:
    """The sums of one run, shared by all its endpoints; used from one event loop."""

    def __init__(self, leave: CloudLeave, *, spent: Usage = Usage()) -> None:  # noqa: B008 - frozen
        """`spent` is what the run has cost before, where it is resumed."""
        self.leave = leave
        self._cost = Fraction(spent.cost)
        self._tokens = spent.prompt_tokens + spent.completion_tokens
        self._open: list[Reservation] = []
        self._settled = asyncio.Event()

    @property
    def cost(self) -> float:
        """US dollars so far, of requests that are settled."""
        return float(self._cost)

    @property
    def tokens(self) -> int:
        """Tokens so far, of requests that are settled."""
        return self._tokens

    async def reserve(self, model: RemoteModel, *, prompt_tokens: int, wanted: int) -> Reservation:
        """Room for a request at its worst, less than is wanted where no more is left of the limits.

        Waits while other requests have put by what it could have. Raises LimitReached where not even a short answer can
        be paid, whatever these give back.
        """
        if self.leave.max_cost is not None and model.prices is None:
            raise LimitReached(
                model.name,
                f"{model.name} has no prices, and the run may cost {self.leave.max_cost:g} dollars at most",
                hint="add `prices` to the model in models.yaml, or leave the limit of cost out",
            )
        while True:
            alone = self._affordable(model, prompt_tokens, wanted, beside=())
            if alone < max(min(wanted, SHORT_ANSWER_TOKENS), 1):
                raise self._reached(model)
            most = self._affordable(model, prompt_tokens, wanted, beside=self._open)
            if most == alone:
                break
            await self._settled.wait()
        cost = Fraction(0)
        if model.prices is not None:
            cost = price(worst(model.prices), prompt_tokens=prompt_tokens, completion_tokens=most)
        reserved = Reservation(prompt_tokens + most, most, cost)
        self._open.append(reserved)
        return reserved

    def settle(self, reserved: Reservation, usage: Usage) -> None:
        """The request has ended and took this; what it was given beyond that is free again."""
        self._open.remove(reserved)
        self._tokens += usage.prompt_tokens + usage.completion_tokens
        self._cost += Fraction(usage.cost)
        self._settled.set()
        self._settled = asyncio.Event()

    def _affordable(self, model: RemoteModel, prompt_tokens: int, wanted: int, *, beside: Sequence[Reservation]) -> int:
        """How many tokens a request may write beside others that are open."""
        tokens_left, cost_left = self.leave.max_tokens, self.leave.max_cost
        if tokens_left is not None:
            tokens_left -= self._tokens + sum(reserved.tokens for reserved in beside)
        put_by = sum((reserved.cost for reserved in beside), self._cost)
        return affordable(
            prompt_tokens=prompt_tokens,
            wanted=wanted,
            prices=model.prices,
            tokens_left=tokens_left,
            cost_left=None if cost_left is None else Fraction(cost_left) - put_by,
        )

    def _reached(self, model: RemoteModel) -> LimitReached:
        limits = []
        if self.leave.max_cost is not None:
            limits.append(f"{self.leave.max_cost:g} dollars")
        if self.leave.max_tokens is not None:
            limits.append(f"{self.leave.max_tokens} tokens")
        message = f"the run may spend {' and '.join(limits)} on cloud models, and the next request to {model.name}"
        return LimitReached(
            model.name, f"{message} may take more than is left", hint="raise the limit, or ask for less"
        )
