"""The rows of `scripts/bench-server`: beside its peer, alone, in the long run, and with panels that deliberate."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from scripts.engine_bench.figures import Figure, Row
from scripts.server_bench.instant_server import NAME
from scripts.server_bench.load import Load, Loaded, put, quantile
from scripts.server_bench.servers import Server, instant, litellm, micro
from scripts.server_bench.setting import Setting

HARBOUR = Path(__file__).resolve().parents[2] / "examples" / "harbour"
CLIENTS = (1, 64, 512)
QUESTIONS = (
    "What do the sources say about Skerry?",
    "How high is the lighthouse of Skerry?",
    "When was the harbour built?",
    "Who keeps the light?",
)
ADDED_MS = 5.0
GROWTH = 1.1
ROUNDS = 3
WAYS = {"whole": False, "streamed": True}
Body = Mapping[str, object]


@dataclass(frozen=True, slots=True)
class Asked:
    """A load that a server had, and its processor time for a request, which other programs change little."""

    loaded: Loaded
    cpu_ms: float

    def whole_ms(self, share: float) -> float:
        return quantile(self.loaded.whole_ms, share)


def peer(setting: Setting) -> Iterator[Figure]:
    """Ours and litellm's proxy on the same requests, in turns; the best of the rounds of each counts."""
    if setting.litellm is None:
        setting.say("peer: there is no litellm here; name its executable with --litellm")
        return
    with ExitStack() as stack:
        servers = {
            "localfusion": stack.enter_context(instant()),
            "litellm": stack.enter_context(litellm(setting.litellm)),
        }
        for way, is_streamed in WAYS.items():
            for n_clients in setting.pick(CLIENTS[:1], CLIENTS[:2]):
                found = _in_turns(setting, servers, is_streamed=is_streamed, n_clients=n_clients)
                yield from _compared(f"{way}, {_clients(n_clients)}", found, is_judged=not setting.quick)


def answering(setting: Setting) -> Iterator[Figure]:
    """What the server adds to an engine that answers at once."""
    with instant() as server:
        for way, is_streamed in WAYS.items():
            _warm_up(server, is_streamed=is_streamed)
            for n_clients in setting.pick(CLIENTS[:2], CLIENTS):
                found = _asked(server, setting.pick(200, 3000), n_clients=n_clients, is_streamed=is_streamed)
                limit = ADDED_MS if n_clients == 1 and not is_streamed and not setting.quick else None
                name = f"{way}, {_clients(n_clients)}"
                yield Figure(f"{name}: p50", found.whole_ms(0.5), "ms", None, limit, is_limit=True)
                yield Figure(f"{name}: p99", found.whole_ms(0.99), "ms")
                if is_streamed:
                    yield Figure(f"{name}: p50 to the first piece", quantile(found.loaded.first_ms, 0.5), "ms")
                yield Figure(f"{name}: requests", found.loaded.per_second, "1/s")
                yield Figure(f"{name}: processor time a request", found.cpu_ms, "ms")


def memory(setting: Setting) -> Iterator[Figure]:
    """Resident memory after many requests against that after few; every second one is streamed, every fourth kept."""
    few, many = 100, setting.pick(400, 10_000)
    bodies = [_body(), _body(is_streamed=True), _body(), _body(is_streamed=True, store=True)]
    with instant() as server:
        put(Load(server.port, bodies, few, n_clients=16))
        before = server.resident_bytes()
        put(Load(server.port, bodies, many - few, n_clients=16))
        after = server.resident_bytes()
    against = f"after {few} requests"
    yield Figure(f"memory after {many} requests", after / before, "times", against, GROWTH, is_limit=True)
    yield Figure(f"memory after {few} requests", before / 2**20, "MiB")
    yield Figure(f"memory after {many} requests, resident", after / 2**20, "MiB")


def fusion(setting: Setting) -> Iterator[Figure]:
    """Deliberations of the micro panel, all at once against one after another: the same questions, other seeds."""
    n_runs = setting.pick(2, 16)
    with micro(HARBOUR) as server:
        put(Load(server.port, [_question(0, seed=0)], 1))
        apart = put(Load(server.port, [_question(n, seed=1 + n) for n in range(n_runs)], n_runs))
        bodies = [_question(n, seed=1 + n_runs + n) for n in range(n_runs)]
        together = put(Load(server.port, bodies, n_runs, n_clients=n_runs))
    against = "one after another"
    yield Figure(f"{n_runs} deliberations at once: throughput", apart.seconds / together.seconds, "times", against)
    yield Figure(f"{n_runs} deliberations at once", together.seconds, "s")
    yield Figure(f"{n_runs} deliberations one after another", apart.seconds, "s")
    yield Figure("one deliberation, alone: p50", quantile(apart.whole_ms, 0.5) / 1000, "s")
    yield Figure(f"one deliberation of {n_runs} at once: p50", quantile(together.whole_ms, 0.5) / 1000, "s")


ROWS: Mapping[str, Row[Setting]] = {"peer": peer, "answering": answering, "memory": memory, "fusion": fusion}


def _in_turns(
    setting: Setting, servers: Mapping[str, Server], *, is_streamed: bool, n_clients: int
) -> Mapping[str, Sequence[Asked]]:
    found: dict[str, list[Asked]] = {name: [] for name in servers}
    for server in servers.values():
        _warm_up(server, is_streamed=is_streamed)
    for _ in range(setting.pick(1, ROUNDS)):
        for name, server in servers.items():
            n_requests = setting.pick(60, 300)
            found[name].append(_asked(server, n_requests, n_clients=n_clients, is_streamed=is_streamed))
    return found


def _compared(name: str, found: Mapping[str, Sequence[Asked]], *, is_judged: bool) -> Iterable[Figure]:
    rate = {who: max(one.loaded.per_second for one in rounds) for who, rounds in found.items()}
    middle = {who: min(one.whole_ms(0.5) for one in rounds) for who, rounds in found.items()}
    cpu_ms = {who: min(one.cpu_ms for one in rounds) for who, rounds in found.items()}
    wanted = 1.0 if is_judged else None
    ours, theirs = found
    yield Figure(f"{name}: requests a second", rate[ours] / rate[theirs], "times", theirs, wanted)
    yield Figure(f"{name}: p50", middle[ours] / middle[theirs], "times", theirs, wanted, is_limit=True)
    yield Figure(f"{name}: processor time", cpu_ms[ours] / cpu_ms[theirs], "times", theirs, wanted, is_limit=True)
    for who in found:
        yield Figure(f"{name}: requests, {who}", rate[who], "1/s")
        yield Figure(f"{name}: p50, {who}", middle[who], "ms")
        yield Figure(f"{name}: processor time a request, {who}", cpu_ms[who], "ms")
        yield Figure(f"{name}: pieces of an answer, {who}", quantile(found[who][0].loaded.pieces, 0.5), "")


def _asked(server: Server, n_requests: int, *, n_clients: int, is_streamed: bool) -> Asked:
    before = server.cpu_seconds()
    loaded = put(Load(server.port, [_body(is_streamed=is_streamed)], n_requests, n_clients))
    return Asked(loaded, 1000 * (server.cpu_seconds() - before) / n_requests)


def _warm_up(server: Server, *, is_streamed: bool) -> None:
    _asked(server, 50, n_clients=4, is_streamed=is_streamed)


def _body(*, is_streamed: bool = False, **more: object) -> Body:
    return {"model": NAME, "messages": [{"role": "user", "content": QUESTIONS[1]}], "stream": is_streamed, **more}


def _question(number: int, *, seed: int) -> Body:
    content = QUESTIONS[number % len(QUESTIONS)]
    return {"model": "localfusion/micro", "messages": [{"role": "user", "content": content}], "seed": seed}


def _clients(n_clients: int) -> str:
    return "1 client" if n_clients == 1 else f"{n_clients} clients"
