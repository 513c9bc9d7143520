"""Politeness to hosts: one request at a time, and a pause between the starts of two. Sends nothing itself."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

INTERVAL_S = 1.0


@dataclass(slots=True)
class _Host:
    """`users` hold its turn or wait for it; the next may start at `free_at`."""

    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    users: int = 0
    free_at: float = 0.0


class HostSpacing:
    """The turns at hosts; all who fetch share one."""

    def __init__(
        self,
        interval_s: float = INTERVAL_S,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """`interval_s` lies between the starts of two requests to one host."""
        self._interval_s = interval_s
        self._clock = clock
        self._sleep = sleep
        self._hosts: dict[str, _Host] = {}

    @asynccontextmanager
    async def turn(self, name: str) -> AsyncIterator[None]:
        """Hold a host for one request, once it is free and its pause is over."""
        self._forget_idle()
        host = self._hosts.setdefault(name, _Host())
        host.users += 1
        try:
            async with host.lock:
                while (wait := host.free_at - self._clock()) > 0:
                    await self._sleep(wait)
                host.free_at = self._clock() + self._interval_s
                yield
        finally:
            host.users -= 1

    def put_off(self, name: str, seconds: float) -> None:
        """Let nobody start at a host for so long."""
        host = self._hosts.setdefault(name, _Host())
        host.free_at = max(host.free_at, self._clock() + seconds)

    def _forget_idle(self) -> None:
        now = self._clock()
        self._hosts = {name: host for name, host in self._hosts.items() if host.users or host.free_at > now}
