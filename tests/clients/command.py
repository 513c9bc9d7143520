"""`localfusion serve` in a process of its own, as clients meet it: the micro models, the harbour folder, no network."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from localfusion.server.keys import Keys, new_key, save_keys
from tests.embedding_gguf import write_embedding_gguf
from tests.harbour import HARBOUR, start

VECTORS = "vectors"
"""The embedding model of `furnish`."""
MICRO = "micro-a"
QUESTION = "What do the sources say about Skerry?"


@contextmanager
def serving(home: Path, *arguments: str) -> Iterator[str]:
    """Serve from a home until the block ends; gives where, as `http://127.0.0.1:PORT`."""
    server = start(home, "serve", "--port", "0", "--offline", "--docs", str(HARBOUR), *arguments)
    log: list[str] = []
    try:
        assert server.stderr is not None
        url = server.stderr.readline().split()[2]
        reading = threading.Thread(target=log.extend, args=(server.stderr,), daemon=True)
        reading.start()
        yield url
        server.send_signal(signal.SIGINT)
        assert server.wait(timeout=60) == 0, log
        reading.join()
    finally:
        server.kill()
        server.wait()
        for pipe in (server.stdout, server.stderr):
            assert pipe is not None
            pipe.close()


def furnish(home: Path) -> None:
    """Put an embedding model into a home."""
    home.mkdir(exist_ok=True)
    write_embedding_gguf(home / "vectors.gguf")
    (home / "models.yaml").write_text(f"models:\n  {VECTORS}: {{path: vectors.gguf, embeddings: true}}\n")


def lock(home: Path, **requests_per_minute: int | None) -> dict[str, str]:
    """Put keys of these names and limits into a home; returns what is shown of each once."""
    made = {
        name: new_key(name, created="2026-01-01", requests_per_minute=limit)
        for name, limit in requests_per_minute.items()
    }
    save_keys(home, Keys(tuple(entry for _, entry in made.values())))
    return {name: secret for name, (secret, _) in made.items()}
