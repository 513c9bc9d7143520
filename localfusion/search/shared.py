"""A source as the panelists of one run share it: what one of them has asked is not asked again. Keeps nothing after."""

import asyncio
from collections import Counter
from collections.abc import Callable, Coroutine
from dataclasses import replace
from typing import TypeVar, cast

from localfusion.domains import Domains
from localfusion.search.source import Fetched, Found, Search, Source

T = TypeVar("T")
_Key = Search | tuple[str, Domains]
_Answer = Found | Fetched


class Shared:
    """Answers of `source`, each asked for once and kept; a failure is told to those who wait for it and forgotten."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._tasks: dict[_Key, asyncio.Task[_Answer]] = {}
        self._n_waiting: Counter[_Key] = Counter()

    @property
    def name(self) -> str:
        """What results and warnings call it."""
        return self._source.name

    async def search(self, search: Search) -> Found:
        """As the source; queries that differ in case and white space alone are the same."""
        key = replace(search, query=" ".join(search.query.casefold().split()))
        return cast(Found, await self._once(key, lambda: self._source.search(search)))

    async def fetch(self, url: str, domains: Domains) -> Fetched:
        """As the source."""
        return cast(Fetched, await self._once((url, domains), lambda: self._source.fetch(url, domains)))

    async def _once(self, key: _Key, ask: Callable[[], Coroutine[None, None, _Answer]]) -> _Answer:
        """The answer to `key`; the question goes on while anybody waits for it, whoever asked first."""
        task = self._tasks.get(key)
        if task is None:
            task = self._tasks[key] = asyncio.create_task(ask())
        self._n_waiting[key] += 1
        try:
            return await asyncio.shield(task)
        finally:
            self._n_waiting[key] -= 1
            if not self._n_waiting[key] and not task.done():
                task.cancel()
            if not task.done() or task.cancelled() or task.exception():
                self._forget(key, task)

    def _forget(self, key: _Key, task: asyncio.Task[_Answer]) -> None:
        if self._tasks.get(key) is task and not self._n_waiting[key]:
            del self._tasks[key]
