"""Jobs of the server: everybody hears everything, nothing that was stored is lost, nobody is kept waiting."""

import asyncio
import gc
import os
import re
import resource
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import aclosing, closing, suppress
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from localfusion.database import Database
from localfusion.errors import (
    InvalidRequest,
    LocalFusionError,
    ModelError,
    NoSuchResponse,
    QueueFull,
    RunInterrupted,
)
from localfusion.messages import Json
from localfusion.owner import this_process
from localfusion.server import job_log, live_job
from localfusion.server.job_store import FILE_NAME, MIGRATIONS, Change, JobRecord, JobStore
from localfusion.server.jobs import Job, JobKind, JobRequest, Jobs, Patience, Teller, Work

T = TypeVar("T")
Revive = Callable[[JobRequest], Work]
DEAD = replace(this_process(), started=-10.0)
ASKED = JobRequest("responses", "ann", {"input": "How high is Skerry?"})
BACKGROUND = replace(ASKED, is_background=True)
UNSTORED = replace(ASKED, is_stored=False)
OTHERS: tuple[Json, ...] = ({"input": "How low?"}, {"input": "How high is Skerry?", "n": True}, None)


def run(main: Coroutine[None, None, T]) -> T:
    return asyncio.run(main)


def never(request: JobRequest) -> Work:
    raise AssertionError(f"nothing is to be begun again: {request}")


def opened(
    home: Path | None, revive: Callable[[JobRequest], Work] = never, *, patience: Patience | None = None
) -> Jobs:
    return Jobs(home, keep_days=30, revive=revive, stopped=stopped, patience=patience)


def stopped(request: JobRequest, body: Json) -> Json:
    assert request.owner == "ann"
    return [body, "the server was stopped"]


def counting(n: int, *, pause: Callable[[], Awaitable[object]] = lambda: asyncio.sleep(0)) -> Work:
    """Tells numbers, and waits between them."""

    async def work(teller: Teller, run_id: str | None) -> None:
        teller.update("in_progress", {"run": run_id})
        for number in range(n):
            teller.tell({"sequence_number": 0, "number": number})
            await pause()
        teller.update("completed", {"told": n})

    return work


class Held:
    """Work that goes on until it is let go, and says when it was cancelled."""

    def __init__(self) -> None:
        self.go = asyncio.Event()
        self.begun = asyncio.Event()

    async def work(self, teller: Teller, run_id: str | None) -> None:
        teller.update("in_progress", {"run": run_id})
        teller.tell("begun")
        self.begun.set()
        try:
            await self.go.wait()
        except asyncio.CancelledError:
            teller.update("cancelled", "cancelled")
            teller.tell("cancelled")
            raise
        teller.tell("done")
        teller.update("completed", "done")


async def heard(job: Job, after: int = -1) -> list[Json]:
    told = [item async for item in job.events(after=after)]
    start = max(after + 1, 0)
    assert [item.sequence for item in told] == list(range(start, start + len(told)))
    return [item.event for item in told]


async def eventually(is_true: Callable[[], bool]) -> None:
    while not is_true():  # noqa: ASYNC110  nothing says so
        await asyncio.sleep(0.005)


def numbers(n: int, first: int = 0) -> list[Json]:
    return [{"sequence_number": number, "number": number} for number in range(first, n)]


# Who listens.


@given(
    st.lists(st.tuples(st.integers(0, 6), st.integers(-1, 25)), min_size=1, max_size=5),
    st.lists(st.integers(0, 3), max_size=20),
    st.booleans(),
)
@settings(max_examples=60)
def test_whoever_listens_hears_all_behind_where_he_was(
    listeners: list[tuple[int, int]], pauses: list[int], is_stored: bool
) -> None:
    """Listeners come and read at paces of their own, while the work goes at another."""

    async def listen(job: Job, pace: int, after: int) -> list[int]:
        found = []
        async for told in job.events(after=after):
            assert told.event == {"sequence_number": told.sequence, "number": told.sequence}
            found.append(told.sequence)
            for _ in range(pace):
                await asyncio.sleep(0)
        return found

    async def main() -> None:
        waits = iter(pauses)

        async def pause() -> None:
            for _ in range(next(waits)):
                await asyncio.sleep(0)

        async with opened(None) as jobs:
            job = await jobs.start(replace(ASKED, is_stored=is_stored), counting(len(pauses), pause=pause))
            found = await asyncio.gather(*(listen(job, *one) for one in listeners), job.result())
            assert found == [*(list(range(after + 1, len(pauses))) for _, after in listeners), {"told": len(pauses)}]

    run(main())


def test_who_is_far_behind_reads_from_the_disk(tmp_path: Path) -> None:
    n = 5 * job_log.TAIL_EVENTS

    async def main() -> None:
        held = Held()
        async with opened(tmp_path) as jobs:
            job = await jobs.start(BACKGROUND, counting(n, pause=held.go.wait))
            assert isinstance(job, live_job.LiveJob)
            async with aclosing(job.events()) as events:
                assert (await anext(events)).sequence == 0
                held.go.set()
                await eventually(lambda: job.log.n_written >= n)
                assert len(job.log.texts(job.log.first)) <= job_log.TAIL_EVENTS
                assert [told.sequence async for told in events] == list(range(1, n))
            again = await jobs.get(job.id, "ann")
            assert await heard(again, after=n - 3) == numbers(n, n - 2)
            assert (again.status, again.body) == ("completed", {"told": n})

    run(main())


def test_a_log_that_is_on_no_disk_is_bounded_and_never_has_a_gap(tmp_path: Path) -> None:
    big = "x" * (job_log.MAX_BYTES // 8)

    async def main() -> None:
        held = Held()

        async def work(teller: Teller, _: str | None) -> None:
            for _number in range(20):
                teller.tell(big)
            await held.go.wait()

        async with opened(tmp_path) as jobs:
            job = await jobs.start(UNSTORED, work)
            assert isinstance(job, live_job.LiveJob)
            await eventually(lambda: job.log.end == 20)
            assert job.log.n_bytes <= job_log.MAX_BYTES
            with pytest.raises(LocalFusionError, match="not kept any more"):
                await heard(job)
            held.go.set()

    run(main())


def test_what_is_told_is_text_of_ascii_and_as_it_was() -> None:
    event: dict[str, Json] = {"text": "“é” \ud800 \u2028", "sequence_number": 7}

    async def main() -> None:
        async def work(teller: Teller, _: str | None) -> None:
            teller.tell(event)
            event["text"] = "changed later"
            await asyncio.sleep(0)

        async with opened(None) as jobs:
            (told,) = [told async for told in (await jobs.start(ASKED, work)).events()]
            assert told.text.isascii()
            assert told.event == {"text": "“é” \ud800 \u2028", "sequence_number": 0}

    run(main())


@pytest.mark.parametrize(
    ("error", "said"), [(ModelError("m", "it broke"), ""), (ZeroDivisionError("a secret"), "ZeroDivisionError")]
)
def test_what_the_work_raises_is_raised_to_who_waits(
    error: Exception, said: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        async def work(teller: Teller, _: str | None) -> None:
            teller.tell("begun")
            await asyncio.sleep(0)
            raise error

        async with opened(None) as jobs:
            job = await jobs.start(ASKED, work)
            assert await heard(job) == ["begun"]
            assert job.status == "failed"
            with pytest.raises(type(error)):
                await job.result()

    run(main())
    assert said in caplog.text
    assert bool(said) == bool(caplog.text)
    assert "secret" not in caplog.text


# Who leaves.


@pytest.mark.parametrize("request_", [ASKED, UNSTORED])
def test_work_ends_when_the_last_listener_leaves(request_: JobRequest) -> None:
    async def main() -> None:
        held = Held()
        async with opened(None) as jobs:
            job = await jobs.start(request_, held.work)
            async with aclosing(job.events()) as one:
                assert (await anext(one)).event == "begun"
                async with aclosing(job.events()) as other:
                    await anext(other)
                waiting = asyncio.create_task(job.result())
                await asyncio.sleep(0.02)
                assert job.status == "in_progress"
            await asyncio.sleep(0.02)
            assert job.status == "in_progress"
            waiting.cancel()
            await eventually(lambda: job.status == "cancelled")
            await eventually(lambda: jobs.n_under_way == 0)
            assert job.body == "cancelled"

    run(main())


def test_work_that_nobody_ever_listens_to_ends_and_in_the_background_it_does_not() -> None:
    async def main() -> None:
        held, alone = Held(), Held()
        async with opened(None, patience=Patience(first_s=0.01)) as jobs:
            job, unheard = await jobs.start(BACKGROUND, held.work), await jobs.start(ASKED, alone.work)
            async with aclosing(job.events()) as events:
                await anext(events)
            await eventually(lambda: unheard.status == "cancelled")
            assert job.status == "in_progress"
            held.go.set()
            assert await heard(job) == ["begun", "done"]

    run(main())


def test_a_client_with_a_key_may_come_back() -> None:
    async def main() -> None:
        held = Held()
        keyed = replace(UNSTORED, idempotency_key="k")
        async with opened(None, patience=Patience(retry_s=600)) as jobs:
            job = await jobs.start(keyed, held.work)
            async with aclosing(job.events()) as events:
                await anext(events)
            assert await jobs.start(keyed, counting(0)) is job
            held.go.set()
            assert await heard(job) == ["begun", "done"]
            assert await heard(await jobs.start(keyed, counting(0))) == ["begun", "done"]

    run(main())


# Keys.


@pytest.mark.parametrize("is_stored", [True, False])
def test_one_key_is_one_job_and_each_owner_has_keys_of_his_own(tmp_path: Path, is_stored: bool) -> None:
    keyed = replace(ASKED, idempotency_key="k", is_stored=is_stored)

    async def main() -> None:
        async with opened(tmp_path) as jobs:
            found = await asyncio.gather(*(jobs.start(keyed, counting(3)) for _ in range(20)))
            assert len({job.id for job in found}) == 1
            assert await heard(found[7]) == numbers(3)
            other = await jobs.start(replace(keyed, owner="bob"), counting(3))
            assert other.id != found[0].id
            again = await jobs.start(replace(keyed, request={"input": "How high is Skerry?"}), counting(3))
            assert again.id == found[0].id
            for changed in OTHERS:
                with pytest.raises(InvalidRequest) as caught:
                    await jobs.start(replace(keyed, request=changed), counting(3))
                assert caught.value.code == "idempotency_key_reused"
        async with opened(tmp_path) as jobs:
            later = await jobs.start(keyed, counting(3))
            assert (later.id == found[0].id) == is_stored
            assert await heard(later) == numbers(3)

    run(main())


def test_one_key_is_one_job_of_two_servers(tmp_path: Path) -> None:
    keyed = replace(ASKED, idempotency_key="k", is_background=True)

    async def main() -> None:
        held = Held()
        async with opened(tmp_path) as one, opened(tmp_path) as other:
            first = await one.start(keyed, held.work)
            second = await other.start(keyed, counting(9))
            assert second.id == first.id
            with pytest.raises(InvalidRequest):
                await other.start(replace(keyed, request=None), counting(9))
            held.go.set()
            assert await second.result() == "done"
            assert await heard(second) == ["begun", "done"]

    run(main())


@pytest.mark.parametrize(("kind", "prefix"), [("chat", "chatcmpl-"), ("responses", "resp_")])
def test_ids_say_what_they_are_of_and_cannot_be_guessed(kind: JobKind, prefix: str) -> None:
    told: list[tuple[str, float]] = []

    async def work(teller: Teller, _: str | None) -> None:
        told.append((teller.id, teller.created))

    async def main() -> None:
        async with opened(None) as jobs:
            found = [await jobs.start(replace(ASKED, kind=kind), work) for _ in range(50)]
            for job in found:
                await heard(job)
            assert told == [(job.id, job.created) for job in found]
            assert len({job.id for job in found}) == 50
            assert all(re.fullmatch(prefix + "[0-9a-f]{32}", job.id) for job in found)

    run(main())


def test_what_failed_or_was_cancelled_is_begun_anew(tmp_path: Path) -> None:
    keyed = replace(BACKGROUND, idempotency_key="k")

    async def fail(_teller: Teller, _run: str | None) -> None:
        raise ModelError("m", "it broke")

    async def main() -> None:
        async with opened(tmp_path) as jobs:
            job = await jobs.start(keyed, fail)
            with pytest.raises(ModelError):
                await job.result()
            held = Held()
            second = await jobs.start(keyed, held.work)
            await jobs.cancel(second.id, "ann")
            third = await jobs.start(keyed, counting(2))
            assert len({job.id, second.id, third.id}) == 3
            assert await third.result() == {"told": 2}

    run(main())


# Cancelled, deleted, somebody else's.


def test_cancelling_is_told_and_twice_is_once(tmp_path: Path) -> None:
    async def main() -> None:
        held = Held()
        async with opened(tmp_path) as jobs:
            job = await jobs.start(BACKGROUND, held.work)
            first = await jobs.cancel(job.id, "ann")
            assert (first.status, first.body) == ("cancelled", "cancelled")
            assert await heard(first) == ["begun", "cancelled"]
            second = await jobs.cancel(job.id, "ann")
            assert (second.status, second.body) == ("cancelled", "cancelled")
            done = await jobs.start(BACKGROUND, counting(1))
            await done.result()
            assert (await jobs.cancel(done.id, "ann")).status == "completed"

    run(main())


def test_who_waits_for_what_was_cancelled_before_it_said_anything_is_told(tmp_path: Path) -> None:
    async def main() -> None:
        async def work(_teller: Teller, _run: str | None) -> None:
            await asyncio.Event().wait()

        async with opened(tmp_path) as jobs:
            job = await jobs.start(ASKED, work)
            waiting = asyncio.create_task(job.result())
            await jobs.cancel(job.id, "ann")
            with pytest.raises(RunInterrupted):
                await waiting

    run(main())


def test_a_job_is_seen_by_its_owner_alone(tmp_path: Path) -> None:
    async def main() -> None:
        held = Held()
        async with opened(tmp_path) as jobs:
            under_way, over = await jobs.start(BACKGROUND, held.work), await jobs.start(BACKGROUND, counting(1))
            await over.result()
            for id in (under_way.id, over.id, "resp_none"):
                for refused in (jobs.get, jobs.cancel, jobs.delete):
                    with pytest.raises(NoSuchResponse):
                        await refused(id, "bob")
            assert under_way.status == "in_progress"

    run(main())


def test_nothing_is_left_of_what_was_deleted_or_not_to_be_stored(tmp_path: Path) -> None:
    secret: JobRequest = replace(BACKGROUND, request={"input": "the-secret"})

    async def work(teller: Teller, _: str | None) -> None:
        teller.update("in_progress", {"said": "the-secret"})
        for number in range(500):
            teller.tell({"number": number, "said": "the-secret"})
        await asyncio.Event().wait()

    def holds() -> bool:
        return any(b"the-secret" in path.read_bytes() for path in tmp_path.iterdir())

    async def main() -> None:
        async with opened(tmp_path) as jobs:
            unstored = await jobs.start(replace(secret, is_background=False, is_stored=False), work)
            job = await jobs.start(secret, work)
            assert isinstance(job, live_job.LiveJob)
            await eventually(lambda: job.log.n_written == 500)
            assert holds()
            await jobs.delete(job.id, "ann")
            for forgotten in (jobs.get, jobs.delete):
                with pytest.raises(NoSuchResponse):
                    await forgotten(job.id, "ann")
            assert unstored.status == "in_progress"
            await jobs.cancel(unstored.id, "ann")
            with pytest.raises(NoSuchResponse):
                await jobs.get(unstored.id, "ann")
            assert not holds()
        assert not holds()

    run(main())


def test_what_runs_in_the_background_must_be_stored() -> None:
    async def main() -> None:
        async with opened(None) as jobs:
            with pytest.raises(InvalidRequest) as caught:
                await jobs.start(replace(BACKGROUND, is_stored=False), counting(1))
            assert caught.value.param == "store"

    run(main())


def test_old_jobs_are_forgotten_and_jobs_that_are_over_take_no_memory(tmp_path: Path) -> None:
    now = [1000.0]

    def at_time() -> Jobs:
        return Jobs(tmp_path, keep_days=1, revive=never, clock=lambda: now[0])

    async def main() -> None:
        async with at_time() as jobs:
            old = await jobs.start(ASKED, counting(2))
            await old.result()
            now[0] += 40_000
            newer = await jobs.start(ASKED, counting(2))
            await newer.result()
        now[0] += 60_000
        async with at_time() as jobs:
            with pytest.raises(NoSuchResponse):
                await jobs.get(old.id, "ann")
            assert (await jobs.get(newer.id, "ann")).created == 41_000
            for _ in range(300):
                await (await jobs.start(UNSTORED, counting(2))).result()
            assert jobs.n_under_way == 0
            del old, newer
            gc.collect()
            assert sum(type(thing) is live_job.LiveJob for thing in gc.get_objects()) < 10

    run(main())


@pytest.mark.parametrize("is_over", [True, False])
def test_a_run_is_forgotten_with_its_job(tmp_path: Path, is_over: bool) -> None:
    """When it is deleted or old; that of work which does not end at once, when it has ended."""
    now, forgotten, stubborn = [1000.0], list[str](), asyncio.Event()

    def at_time() -> Jobs:
        return Jobs(tmp_path, keep_days=1, revive=never, forget_runs=forgotten.extend, clock=lambda: now[0])

    def noting(run_id: str) -> Work:
        async def work(teller: Teller, _: str | None) -> None:
            teller.note_run(run_id)
            while not (is_over or stubborn.is_set()):
                with suppress(asyncio.CancelledError):
                    await stubborn.wait()

        return work

    async def main() -> None:
        async with at_time() as jobs:
            deleted = await jobs.start(BACKGROUND, noting("run_1"))
            old = await jobs.start(ASKED, counting(1))
            await old.result()
            await eventually(lambda: deleted.run_id == "run_1")
            deleting = asyncio.create_task(jobs.delete(deleted.id, "ann"))
            if not is_over:
                await asyncio.sleep(0.02)
                assert not forgotten
                stubborn.set()
            await deleting
            assert forgotten == ["run_1"]
            old = await jobs.start(ASKED, noting("run_2"))
            await old.result()
        now[0] += 90_000
        async with at_time() as jobs:
            assert forgotten == ["run_1", "run_2"]
            with pytest.raises(NoSuchResponse):
                await jobs.get(old.id, "ann")

    run(main())


def test_jobs_that_are_kept_for_their_keys_are_bounded_with_their_bodies() -> None:
    async def work(teller: Teller, _: str | None) -> None:
        await asyncio.sleep(0)
        teller.update("completed", "x" * (30 * 2**20))

    async def main() -> None:
        async with opened(None) as jobs:
            asked = [replace(UNSTORED, idempotency_key=key) for key in "abc"]
            first, *others = [await jobs.start(one, work) for one in asked]
            for job in (first, *others):
                await job.result()
            assert [await jobs.start(one, counting(1)) for one in asked[1:]] == others
            assert await jobs.start(asked[0], counting(1)) is not first

    run(main())


# The server ends.


def test_closing_lets_work_finish_and_leaves_the_background_to_the_next(tmp_path: Path) -> None:
    held, quick, front, stubborn = (asyncio.Event() for _ in range(4))
    asked: list[JobRequest] = []

    async def deaf(_teller: Teller, _run: str | None) -> None:
        while not stubborn.is_set():
            try:
                await stubborn.wait()
            except asyncio.CancelledError:
                stubborn.set()

    async def left(teller: Teller, _: str | None) -> None:
        teller.note_run("run_7")
        await counting(3, pause=lambda: asyncio.sleep(0))(teller, "run_7")
        teller.update("in_progress", "half")
        await held.wait()

    def revive(request: JobRequest) -> Work:
        asked.append(request)
        return counting(2)

    async def main() -> None:
        async with opened(tmp_path) as jobs:
            back = await jobs.start(BACKGROUND, left)
            fast = await jobs.start(ASKED, counting(2, pause=quick.wait))
            fore = await jobs.start(ASKED, counting(2, pause=front.wait))
            await jobs.start(ASKED, deaf)
            listening = asyncio.create_task(heard(back))
            closing = asyncio.create_task(jobs.close(0.2))
            await asyncio.sleep(0)
            quick.set()
            with pytest.raises(QueueFull):
                await jobs.start(ASKED, counting(1))
            await closing
            assert await listening == numbers(3)
            assert (fast.status, fore.status) == ("completed", "cancelled")
        async with opened(tmp_path, revive) as jobs:
            assert asked == [BACKGROUND]
            again = await jobs.get(back.id, "ann")
            assert await again.result() == {"told": 2}
            assert again.created == back.created
            told = await heard(again)
            assert told[:3] == numbers(3)
            assert told[3:] == [{"sequence_number": 3, "number": 0}, {"sequence_number": 4, "number": 1}]
            assert (await jobs.get(fore.id, "ann")).status == "cancelled"

    run(main())


CHILD = """
import asyncio, sys
from pathlib import Path
from localfusion.server.jobs import JobRequest, Jobs

async def work(teller, run_id):
    teller.update("in_progress", "half")
    teller.note_run("run_7")
    number = 0
    while True:
        teller.tell({"sequence_number": 0, "number": number})
        number += 1
        await asyncio.sleep(0.0005)

def never(request):
    raise AssertionError

async def main():
    async with Jobs(Path(sys.argv[1]), keep_days=30, revive=never) as jobs:
        back = await jobs.start(JobRequest("responses", "ann", {"input": "x"}, is_background=True), work)
        fore = await jobs.start(JobRequest("chat", "ann", {"input": "y"}, idempotency_key="k"), work)
        async for told in fore.events():
            if told.sequence == 1000:
                print(back.id, fore.id, flush=True)

asyncio.run(main())
"""


def child(home: Path) -> tuple[subprocess.Popen[str], str, str]:
    """A server of its own with a job in the background and one in the foreground, both some thousand events on."""
    server = subprocess.Popen([sys.executable, "-c", CHILD, str(home)], stdout=subprocess.PIPE, text=True)
    assert server.stdout is not None
    back, fore = server.stdout.readline().split()
    return server, back, fore


def test_after_a_kill_the_background_goes_on_and_the_rest_is_told_to_have_failed(tmp_path: Path) -> None:
    server, back, fore = child(tmp_path)
    runs: list[str | None] = []

    async def goes_on(teller: Teller, run_id: str | None) -> None:
        runs.append(run_id)
        await counting(2)(teller, run_id)

    async def main() -> None:
        async with opened(tmp_path, lambda _: goes_on) as jobs:
            listened = await jobs.get(back, "ann")
            told = await heard(listened)
            assert listened.body == {"told": 2}
            assert runs == ["run_7"]
            before = len(told) - 2
            assert before > 0
            assert told[:before] == numbers(before)
            assert told[before:] == [{"sequence_number": before + n, "number": n} for n in range(2)]
            stale = await jobs.get(fore, "ann")
            assert (stale.status, stale.body) == ("failed", ["half", "the server was stopped"])
            kept = await heard(stale)
            assert kept == numbers(len(kept))

    with server:
        os.kill(server.pid, signal.SIGKILL)
        server.wait()
        run(main())


def test_another_servers_jobs_are_heard_and_left_alone(tmp_path: Path) -> None:
    server, back, _ = child(tmp_path)

    async def main() -> None:
        async with opened(tmp_path) as jobs:
            job = await jobs.get(back, "ann")
            assert job.status == "in_progress"
            with pytest.raises(LocalFusionError, match="another server works on"):
                await jobs.cancel(back, "ann")
            async with aclosing(job.events()) as events:
                async for told in events:
                    assert told.event == {"sequence_number": told.sequence, "number": told.sequence}
                    if told.sequence == 1500:
                        server.kill()
                        server.wait()
                        break
            ended = await jobs.cancel(back, "ann")
            assert (ended.status, ended.body) == ("cancelled", ["half", "the server was stopped"])

    with server:
        run(main())


@pytest.mark.parametrize(("n_servers", "status"), [(1, "completed"), (3, "failed")])
def test_a_job_that_ends_its_server_each_time_is_given_up(tmp_path: Path, n_servers: int, status: str) -> None:
    record = JobRecord("resp_1", 0.0, "responses", "ann", "{}", 1, "", "in_progress", '"half"', None, None, 1)
    with closing(JobStore(tmp_path, owner=DEAD)) as store:
        store.create(record)
    for _ in range(n_servers - 1):
        with closing(JobStore(tmp_path, owner=DEAD)) as store:
            assert [found.id for found in store.claim()] == ["resp_1"]

    async def main() -> None:
        async with opened(tmp_path, lambda _: counting(1)) as jobs:
            job = await jobs.get("resp_1", "ann")
            await job.result()
            assert job.status == status

    run(main())


def test_a_job_whose_work_cannot_be_made_again_has_failed(tmp_path: Path) -> None:
    def revive(_: JobRequest) -> Work:
        raise InvalidRequest("the model is not here any more", param="model")

    with closing(JobStore(tmp_path, owner=DEAD)) as store:
        store.create(JobRecord("resp_1", 0.0, "responses", "ann", "{}", 1, "", "queued", '"asked"', None, None, 1))

    async def main() -> None:
        async with opened(tmp_path, revive) as jobs:
            job = await jobs.get("resp_1", "ann")
            assert (job.status, job.body) == ("failed", ["asked", "the server was stopped"])

    run(main())


# The disk takes no more.

FULL = """
import asyncio, logging, resource, sys
from pathlib import Path
from localfusion.server.jobs import JobRequest, Jobs
from localfusion.server.scribe import AGAIN_S
from localfusion.server.stored_job import StoredJob

logging.basicConfig(format="%(message)s")
N = 400

async def work(teller, run_id):
    for number in range(N):
        teller.tell({"number": number, "text": "x" * 2000})
        await asyncio.sleep(0.001)
    teller.update("completed", "done")

async def main():
    async with Jobs(Path(sys.argv[1]), keep_days=30, revive=lambda request: work) as jobs:
        hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
        first = await jobs.start(JobRequest("responses", "", "a"), work)
        heard = [told.sequence async for told in first.events()]
        await asyncio.sleep(1.5 * AGAIN_S)  # tried once more, in vain, now that it is over
        second = await jobs.start(JobRequest("responses", "", "b", is_background=True, idempotency_key="k"), work)
        assert await second.result() == "done"
        assert heard == [told.sequence async for told in second.events()] == list(range(N))
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
        for job in (first, second):
            while not isinstance(await jobs.get(job.id, ""), StoredJob):
                await asyncio.sleep(0.01)
        print(first.id, second.id)

asyncio.run(main())
"""


def test_one_event_that_is_refused_stops_no_other_job(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Somebody else has written the second event of a job; another job of the same moment is stored all the same."""

    async def main() -> tuple[str, str]:
        async with opened(tmp_path) as jobs:
            refused, other = Held(), Held()
            first, second = await jobs.start(BACKGROUND, refused.work), await jobs.start(BACKGROUND, other.work)
            assert isinstance(first, live_job.LiveJob)
            assert isinstance(second, live_job.LiveJob)
            await eventually(lambda: (first.log.n_written, second.log.n_written) == (1, 1))
            with closing(Database(tmp_path / FILE_NAME, MIGRATIONS)) as file, file.transaction() as transaction:
                transaction.execute("INSERT INTO event VALUES (?, 1, '0')", (first.id,))
            refused.go.set()
            other.go.set()
            assert [await heard(job) for job in (first, second)] == [["begun", "done"]] * 2
            await eventually(lambda: jobs.n_under_way == 0 and second.log.n_written == 2)
            third = await jobs.start(BACKGROUND, counting(2))
            assert isinstance(third, live_job.LiveJob)
            await eventually(lambda: third.log.n_written == 2 and bool(third.ended))
            assert (await jobs.get(first.id, "ann")).body == "done"
            await jobs.delete(first.id, "ann")
            return second.id, third.id

    second, third = run(main())
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "is not stored any more: the database" in caplog.text
    assert "damaged" not in caplog.text
    with closing(JobStore(tmp_path)) as store:
        found = [store.record(id) for id in (second, third)]
        assert [one.status for one in found if one is not None] == ["completed", "completed"]
        assert (len(store.events(second, 0, limit=9)), len(store.events(third, 0, limit=9))) == (2, 2)


def test_what_another_server_took_over_is_not_written(tmp_path: Path) -> None:
    """As where two servers cannot see each other's processes: the one that was thought to be gone still writes."""
    record = JobRecord("resp_a", 1.0, "responses", "ann", "null", 1, "", "in_progress", "null", None, None, 1)
    told = Change("resp_a", None, "in_progress", "said", None, None, 0, ["1", "2"])
    with closing(JobStore(tmp_path, owner=DEAD)) as gone, closing(JobStore(tmp_path)) as store:
        gone.create(record)
        gone.write([told])
        assert [one.id for one in store.claim()] == ["resp_a"]
        store.write([replace(told, body="said here", first=2, texts=["3"])])
        gone.write(
            [
                replace(told, status="failed", ended=2.0, first=2, texts=["other"]),
                replace(told, id="resp_b", record=replace(record, id="resp_b")),
            ]
        )
        assert store.events("resp_a", 0, limit=9) == [(0, "1"), (1, "2"), (2, "3")]
        found = store.record("resp_a")
        assert found is not None
        assert (found.status, found.body, found.ended) == ("in_progress", '"said here"', None)
        assert len(store.events("resp_b", 0, limit=9)) == 2


@pytest.mark.skipif(sys.platform == "win32", reason="there are no such limits")
def test_a_disk_that_takes_no_more_stops_nobody_and_is_said_once(tmp_path: Path) -> None:
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[1] == resource.RLIM_INFINITY
    done = subprocess.run(
        [sys.executable, "-c", FULL, str(tmp_path)], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("what is answered now may be gone after a restart") == 1, done.stderr
    assert len(done.stderr.splitlines()) == 1

    async def main() -> None:
        async with opened(tmp_path) as jobs:
            for id in done.stdout.split():
                job = await jobs.get(id, "")
                assert (job.status, job.body, len(await heard(job))) == ("completed", "done", 400)

    run(main())


def test_a_close_that_is_cut_still_leaves_the_background_to_the_next(tmp_path: Path) -> None:
    """A second signal ends the wait for what runs; what is behind the wait is done all the same."""

    async def main() -> None:
        held = Held()
        async with opened(tmp_path) as jobs:
            job = await jobs.start(BACKGROUND, held.work)
            await held.begun.wait()
            closing = asyncio.create_task(jobs.close(60))
            await asyncio.sleep(0.05)
            closing.cancel()
            await asyncio.wait([closing])
        async with opened(tmp_path, lambda _: counting(2)) as jobs:
            again = await jobs.get(job.id, "ann")
            assert await again.result() == {"told": 2}
            assert again.status == "completed"

    run(main())
