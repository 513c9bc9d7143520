"""A load of requests on a server of this machine: so many clients, each sending its next when it has its answer.

Run as a module it is a process of its own, so that what it takes is not the server's: a Load as JSON comes in, a Loaded
goes out. The sockets are bare: a client library would take longer than the server.
"""

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import cycle, islice
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True, slots=True)
class Load:
    """`bodies` are sent to `path` of the port in turn, `n_requests` in all, within `limit_s` seconds."""

    port: int
    bodies: Sequence[Mapping[str, object]]
    n_requests: int
    n_clients: int = 1
    path: str = "/v1/chat/completions"
    limit_s: float = 300.0


@dataclass(slots=True)
class Loaded:
    """Seconds of everything; of each answer the milliseconds to its first piece and to its end, and its pieces."""

    seconds: float = 0.0
    first_ms: list[float] = field(default_factory=list)
    whole_ms: list[float] = field(default_factory=list)
    pieces: list[int] = field(default_factory=list)

    @property
    def per_second(self) -> float:
        return len(self.whole_ms) / self.seconds


def quantile(values: Sequence[float], share: float) -> float:
    """The value that this share of all does not exceed."""
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


def put(load: Load) -> Loaded:
    """Put a load on a server, from another process. Raises RuntimeError for the first answer that is none."""
    command = [sys.executable, "-m", "scripts.server_bench.load"]
    done = subprocess.run(
        command, cwd=ROOT, input=json.dumps(asdict(load)), capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError(done.stderr.strip().rpartition("\n")[2])
    return Loaded(**json.loads(done.stdout))


async def carry(load: Load) -> Loaded:
    """Put a load on a server, from this process."""
    requests = islice(cycle([_request(load, body) for body in load.bodies]), load.n_requests)
    loaded = Loaded()
    async with asyncio.timeout(load.limit_s), asyncio.TaskGroup() as group:
        started = time.perf_counter()
        for _ in range(load.n_clients):
            group.create_task(_client(load.port, requests, loaded))
    loaded.seconds = time.perf_counter() - started
    return loaded


def _request(load: Load, body: Mapping[str, object]) -> bytes:
    text = json.dumps(body).encode()
    head = f"POST {load.path} HTTP/1.1\r\nhost: 127.0.0.1:{load.port}\r\ncontent-type: application/json\r\n"
    return f"{head}content-length: {len(text)}\r\n\r\n".encode() + text


async def _client(port: int, requests: Iterator[bytes], loaded: Loaded) -> None:
    """One connection, which asks as long as there is something to ask."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        for request in requests:
            started = time.perf_counter()
            writer.write(request)
            first, pieces = await read_answer(reader)
            loaded.first_ms.append(1000 * (first - started))
            loaded.whole_ms.append(1000 * (time.perf_counter() - started))
            loaded.pieces.append(pieces)
    finally:
        writer.close()


async def read_answer(reader: asyncio.StreamReader) -> tuple[float, int]:
    """When the first piece of an answer was there, and how many there were. Raises RuntimeError for another status."""
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    lines = dict(line.lower().split(": ", 1) for line in head.split("\r\n")[1:] if line)
    texts: list[bytes] = []
    first = 0.0
    if "content-length" in lines:
        texts.append(await reader.readexactly(int(lines["content-length"])))
        first = time.perf_counter()
    else:
        while n_bytes := int(await reader.readuntil(b"\r\n"), 16):
            texts.append((await reader.readexactly(n_bytes + 2))[:-2])
            first = first or time.perf_counter()
        await reader.readexactly(2)
    if " 200 " not in head.partition("\r\n")[0]:
        raise RuntimeError(f"{head.partition(chr(13))[0]}: {b''.join(texts)[:300]!r}")
    return first, len(texts)


def main() -> None:
    try:
        loaded = asyncio.run(carry(Load(**json.load(sys.stdin))))
    except ExceptionGroup as group:
        sys.exit(f"{type(group.exceptions[0]).__name__}: {group.exceptions[0]}")
    json.dump(asdict(loaded), sys.stdout)


if __name__ == "__main__":
    main()
