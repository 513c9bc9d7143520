"""Files of unknown origin: what they claim, what they hide, and what they break is refused, and nothing else happens.

Headers are built by hand or cut out of a real model; the worker that really loads the worst of them is a real one.
"""

import asyncio
import json
import os
import struct
import subprocess
import sys
import tracemalloc
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import gguf
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from localfusion.analysis import FailedModel
from localfusion.engine import client
from localfusion.errors import ModelError, ModelLoadError
from localfusion.events import (
    CloudCalled,
    CloudCharged,
    FallbackTaken,
    Generated,
    PanelistFailed,
    RunEnded,
    RunStarted,
    WarningRaised,
)
from localfusion.gguf_header import FOREIGN, read_header
from localfusion.messages import GenerateRequest, Message, ModelSpec, Substitution, Usage
from tests.harbour import ROOT, SHIPPED
from tests.tiny_gguf import TinyModel, write_tiny_gguf

MICRO = (SHIPPED / "micro-b.gguf").read_bytes()
U32, TEXT, LIST = 4, 8, 9
F32, Q4_0 = 0, 2


def text(value: str | bytes) -> bytes:
    raw = value.encode() if isinstance(value, str) else value
    return struct.pack("<Q", len(raw)) + raw


def value(key: str | bytes, kind: int, raw: bytes) -> bytes:
    return text(key) + struct.pack("<I", kind) + raw


def tensor(name: str | bytes, shape: Sequence[int], kind: int = F32, offset: int = 0) -> bytes:
    dimensions = b"".join(struct.pack("<Q", length) for length in shape)
    return text(name) + struct.pack("<I", len(shape)) + dimensions + struct.pack("<IQ", kind, offset)


NAMED = value("general.architecture", TEXT, text("llama"))


def gguf_of(*values: bytes, tensors: Sequence[bytes] = (), n_values: int | None = None, weights: int = 4096) -> bytes:
    """A GGUF of these parts; by itself it says that it is a llama."""
    counts = struct.pack("<IQQ", 3, len(tensors), len(values) + 1 if n_values is None else n_values)
    head = b"GGUF" + counts + NAMED + b"".join(values) + b"".join(tensors)
    return head + bytes(-len(head) % 32 + weights)


ONE = tensor("a", [8])

IMPOSSIBLE: Mapping[str, tuple[bytes, str]] = {
    "more values than any model": (gguf_of(n_values=1 << 20), "impossible number of entries"),
    "more tensors than bytes": (b"GGUF" + struct.pack("<IQQ", 3, 1 << 17, 1) + NAMED, "ends within its header"),
    "one key twice": (gguf_of(NAMED, tensors=[ONE]), "two values under one key"),
    "a key twice, once a list": (
        gguf_of(value("x", LIST, struct.pack("<IQ", U32, 0)), value("x", U32, bytes(4)), tensors=[ONE]),
        "two values under one key",
    ),
    "one tensor twice": (gguf_of(tensors=[ONE, tensor("a", [8], offset=32)]), "one name"),
    "a key that is no UTF-8": (gguf_of(value(b"\xff\xfe", U32, bytes(4)), tensors=[ONE]), "not UTF-8"),
    "a text that is no UTF-8": (gguf_of(value("general.name", TEXT, text(b"\xc3("))), "not UTF-8"),
    "a tensor's name that is no UTF-8": (gguf_of(tensors=[tensor(b"\xed\xa0\x80", [8])]), "not UTF-8"),
    "a long name of a tensor": (gguf_of(tensors=[tensor("a" * 65, [8])]), "impossibly long name"),
    "a text longer than the file": (gguf_of(value("x", TEXT, struct.pack("<Q", 1 << 40))), "ends within"),
    "a text of 2^64 - 1": (gguf_of(value("x", TEXT, b"\xff" * 8)), "ends within"),
    "long texts": (gguf_of(value("x", TEXT, text(bytes((1 << 26) + 1)))), "impossibly long texts"),
    "alignment 0": (gguf_of(value("general.alignment", U32, bytes(4)), tensors=[ONE]), "alignment"),
    "alignment 48": (gguf_of(value("general.alignment", U32, struct.pack("<I", 48)), tensors=[ONE]), "alignment"),
    "alignment as text": (gguf_of(value("general.alignment", TEXT, text("32")), tensors=[ONE]), "alignment"),
    "five dimensions": (gguf_of(tensors=[tensor("a", [1] * 5)]), "number of dimensions"),
    "2^32 - 1 dimensions": (gguf_of(tensors=[text("a") + b"\xff" * 4]), "number of dimensions"),
    "a dimension of 0": (gguf_of(tensors=[tensor("a", [8, 0])]), "impossible shape"),
    "a product beyond 2^63": (gguf_of(tensors=[tensor("a", [1 << 32, 1 << 32])]), "impossible shape"),
    "a product that wraps to 8": (gguf_of(tensors=[tensor("a", [(1 << 61) + 1, 8])]), "impossible shape"),
    "a row of half a block": (gguf_of(tensors=[tensor("a", [16], Q4_0)]), "impossible shape"),
    "an offset beyond the file": (gguf_of(tensors=[tensor("a", [8], offset=1 << 20)]), "are named in its header"),
    "an unknown type beyond the file": (gguf_of(tensors=[tensor("a", [8], 999, 1 << 20)]), "are named in its header"),
    "an offset that wraps to 0": (gguf_of(tensors=[tensor("a", [8], offset=(1 << 64) - 32)]), "impossible place"),
    "an offset between places": (gguf_of(tensors=[tensor("a", [8], offset=8)]), "impossible place"),
    "tensors in each other": (gguf_of(tensors=[tensor("a", [16]), tensor("b", [8], offset=32)]), "overlap"),
    "tensors on each other": (gguf_of(tensors=[ONE, tensor("b", [8])]), "overlap"),
    "a vocabulary larger than its file": (
        gguf_of(value("llama.vocab_size", U32, struct.pack("<I", 1 << 23)), tensors=[ONE]),
        "size of the vocabulary",
    ),
    "a list of more texts than there are": (
        gguf_of(value("tokenizer.ggml.tokens", LIST, struct.pack("<IQ", TEXT, 1 << 21))),
        "ends within its header",
    ),
    "a list of 2^60 numbers": (gguf_of(value("x", LIST, struct.pack("<IQ", U32, 1 << 60))), "number of entries"),
    "more texts than a vocabulary has": (gguf_of(value("x", LIST, struct.pack("<IQ", TEXT, 1 << 23))), "of entries"),
    "lists of lists of lists": (
        gguf_of(value("x", LIST, struct.pack("<IQ", LIST, 1) * 9 + struct.pack("<IQ", U32, 0))),
        "nests too deeply",
    ),
    "no architecture but a number": (
        b"GGUF" + struct.pack("<IQQ", 3, 1, 1) + value("general.architecture", U32, bytes(4)) + ONE + bytes(4096),
        "it holds no model",
    ),
    "the other order of bytes": (b"GGUF" + struct.pack(">IQQ", 3, 1, 1), "another order of bytes"),
}


@pytest.mark.parametrize(("content", "says"), IMPOSSIBLE.values(), ids=IMPOSSIBLE)
def test_what_cannot_be_is_refused(tmp_path: Path, content: bytes, says: str) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(content)
    with pytest.raises(ModelLoadError, match=f"is damaged: .*{says}") as caught:
        read_header(path, model="m")
    assert caught.value.hint


def test_what_is_next_to_impossible_is_taken(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    names = ["a" * 64, "b", "c"]
    table = [tensor(name, [2, 2, 2, 1], offset=64 * n) for n, name in enumerate(names)]
    path.write_bytes(gguf_of(value("general.alignment", U32, struct.pack("<I", 64)), tensors=table))
    assert [found.name for found in read_header(path, model="m").tensors] == names


BEGINNINGS: Mapping[str, tuple[bytes, str, str]] = {
    "page": (b"<!DOCTYPE html><html><title>404</title>", "it is a web page", "log in"),
    "page behind white space": (b"\xef\xbb\xbf\n <HTML lang=en>", "it is a web page", "licence"),
    "pointer": (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n", "a Git LFS pointer", "git lfs pull"),
    "zip": (b"PK\x03\x04\x14\x00", "a zip archive", "its GGUF"),
    "safetensors": (struct.pack("<Q", 40) + b'{"__metadata__":{}}', "a safetensors file", "convert"),
    "pickle": (b"\x80\x02}q\x00.", "a Python pickle", "convert"),
    "old format": (b"tjgg\x03\x00\x00\x00", "older than GGUF", "convert"),
    "gzip": (b"\x1f\x8b\x08\x00", "it is compressed", "unpack it"),
    "zstandard": (b"\x28\xb5\x2f\xfd", "it is compressed", "unpack it"),
    "message": (b'{"error": "Invalid username or password."}', "it is JSON", "fetch the file again"),
}


@pytest.mark.parametrize(("content", "says", "hint"), BEGINNINGS.values(), ids=BEGINNINGS)
def test_a_file_of_another_kind_is_named(tmp_path: Path, content: bytes, says: str, hint: str) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(content + bytes(500))
    with pytest.raises(ModelLoadError, match=f"is not a GGUF: .*{says}") as caught:
        read_header(path, model="m")
    assert hint in caught.value.hint
    assert len({what for _, what, _ in FOREIGN}) == len(FOREIGN)


def split_part(number: int, count: int, name: str) -> bytes:
    places = [value("split.no", 2, struct.pack("<H", number)), value("split.count", 2, struct.pack("<H", count))]
    return gguf_of(*places, tensors=[tensor(name, [8])])


@pytest.mark.parametrize(
    ("second", "says"),
    [
        (split_part(1, 2, "b"), None),
        (split_part(0, 2, "b"), "is not part 2 of 2"),
        (split_part(1, 3, "b"), "is not part 2 of 2"),
        (gguf_of(tensors=[tensor("b", [8])]), "is not part 2 of 2"),
        (split_part(1, 2, "a"), "one name"),
    ],
)
def test_the_parts_of_a_split_belong_together(tmp_path: Path, second: bytes, says: str | None) -> None:
    first = tmp_path / "m-00001-of-00002.gguf"
    first.write_bytes(split_part(0, 2, "a"))
    (tmp_path / "m-00002-of-00002.gguf").write_bytes(second)
    if says is None:
        assert [found.part for found in read_header(first, model="m").tensors] == [0, 1]
    else:
        with pytest.raises(ModelLoadError, match=says):
            read_header(first, model="m")


# A real model, damaged


def header_length(path: Path) -> int:
    return min(found.offset for found in read_header(path, model="m").tensors)


HEADER = header_length(SHIPPED / "micro-b.gguf")

damages = st.lists(
    st.one_of(
        st.tuples(st.just("flip"), st.integers(0, HEADER - 1), st.integers(1, 255)),
        st.tuples(st.just("byte"), st.integers(0, HEADER - 9), st.sampled_from([0, 0x7F, 0x80, 0xFF])),
        st.tuples(st.just("count"), st.integers(4, HEADER - 9), st.sampled_from([0, 1, 1 << 20, 1 << 31, 1 << 62])),
        st.tuples(st.just("counts"), st.sampled_from([8, 16]), st.integers(0, 1 << 64) | st.integers(0, 200)),
        st.tuples(st.just("cut"), st.integers(0, HEADER), st.integers(1, 64)),
        st.tuples(st.just("end"), st.integers(0, len(MICRO)), st.just(0)),
    ),
    min_size=1,
    max_size=4,
)


def damaged(whole: bytes, how: Sequence[tuple[str, int, int]]) -> bytes:
    raw = bytearray(whole)
    for kind, at, number in how:
        match kind:
            case "flip" if at < len(raw):
                raw[at] ^= number
            case "byte" if at < len(raw):
                raw[at] = number
            case "count" | "counts" if at + 8 <= len(raw):
                raw[at : at + 8] = struct.pack("<Q", min(number, (1 << 64) - 1))
            case "cut":
                del raw[at : at + number]
            case "end":
                del raw[at:]
    return bytes(raw)


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(damages)
def test_any_damage_to_a_real_header_is_a_load_error_or_harmless(
    tmp_path: Path, how: list[tuple[str, int, int]]
) -> None:
    path = tmp_path / "damaged.gguf"
    path.write_bytes(damaged(MICRO, how))
    tracemalloc.start()
    try:
        with suppress(ModelLoadError):
            header = read_header(path, model="m")
            assert all(found.offset + found.n_bytes <= path.stat().st_size for found in header.tensors)
        assert tracemalloc.get_traced_memory()[1] < 64 << 20
    finally:
        tracemalloc.stop()


async def load_and_write(path: Path) -> str:
    """What becomes of a file that a worker really loads: "refused", or "written"."""
    spec = ModelSpec("m", path, n_ctx=256, n_batch=64, n_ubatch=64, n_threads=1)
    try:
        model = await client.load(spec)
    except ModelError:
        return "refused"
    try:
        await model.complete(GenerateRequest("s", (Message("user", "What is the height of Skerry?"),), max_tokens=4))
    except ModelError:
        return "refused"
    else:
        return "written"
    finally:
        await model.close()


BADLY = (
    *((("flip", at, 0xFF),) for at in range(200, HEADER, HEADER // 20)),
    *((("byte", at, 0),) for at in range(1000, HEADER, HEADER // 12)),
    *((("cut", at, 1),) for at in range(3000, HEADER, HEADER // 4)),
)


@pytest.mark.slow
def test_a_damaged_file_that_a_worker_loads_costs_no_more_than_its_worker(tmp_path: Path) -> None:
    path = tmp_path / "damaged.gguf"

    async def all_of_them() -> list[str]:
        found = []
        for how in BADLY:
            path.write_bytes(damaged(MICRO, how))
            found.append(await load_and_write(path))
        path.write_bytes(MICRO)
        return [*found, await load_and_write(path)]

    came_to = asyncio.run(all_of_them())
    assert came_to[-1] == "written"
    assert "refused" in came_to


# What a file, or models.yaml, says of itself

ESCAPES = "\x1b[2J\x1b]0;owned\x07\x9b31m\r\u202e"
MARKUP = "<script>alert(1)</script>[bold red]{{ 7919 * 7907 }}{% for i in range(9) %}%s$(id)`id`"
SAID = f"{ESCAPES}{MARKUP}"
UNSAFE = ("\x1b", "\x07", "\x9b", "\r", "\u202e")
YAML = """\
models:
  hostile: {{path: "{path}", description: "{said}", licence: "{said}", licence_note: "{said}"}}
  broken: {{path: broken.gguf}}
presets:
  one:
    description: "{said}"
    panel: [{{model: hostile, max_tokens: 16, tools: {{enabled: []}}}}]
    judge: {{model: hostile, max_tokens: 64}}
  bad: {{panel: [hostile], judge: broken}}
aliases: {{default: one}}
"""


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model whose metadata attacks, and a models.yaml that does."""
    folder = tmp_path_factory.mktemp("hostile")
    path = write_tiny_gguf(folder / "plain.gguf", TinyModel(n_ctx=2048))
    reader, writer = gguf.GGUFReader(path), gguf.GGUFWriter(folder / "hostile\x1b[2J.gguf", "llama")
    for key, field in reader.fields.items():
        if not key.startswith("GGUF.") and key != "general.architecture":
            kind, sub = field.types[0], field.types[-1]
            writer.add_key_value(key, field.contents(), kind, sub if kind is gguf.GGUFValueType.ARRAY else None)
    for key in ("name", "description", "license", "url", "author", "source.url", "basename", "finetune"):
        writer.add_string(f"general.{key}", SAID)
    for found in reader.tensors:
        writer.add_tensor(found.name, found.data)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    for name in ("broken.gguf", "broken\x1b[2J.gguf"):
        (folder / name).write_bytes(b"<!DOCTYPE html><title>\x1b[2J</title>")
    (folder / "hostile.gguf").symlink_to("hostile\x1b[2J.gguf")
    said = MARKUP.replace('"', "'")
    (folder / "models.yaml").write_text(YAML.format(path="hostile.gguf", said=said))
    escaped = said + "\\e[2J\\a\\x9B31m\\r\\u202E"
    (folder / "hostile.yaml").write_text(YAML.format(path="hostile\\e[2J.gguf", said=escaped))
    (folder / "docs").mkdir()
    (folder / "docs" / "a.md").write_text("The height of Skerry is 40 metres.\n")
    return folder


COMMANDS: Mapping[str, tuple[str, ...]] = {
    "doctor": ("doctor",),
    "doctor as JSON": ("doctor", "--json"),
    "a run": ("ask", "--docs", "docs", "Q?"),
    "the runs": ("runs", "list"),
    "the run": ("runs", "show", "last"),
    "the run as JSON": ("runs", "show", "last", "--json"),
    "usage": ("usage",),
    "usage as JSON": ("usage", "--json"),
    "a file that is a page": ("ask", "--docs", "docs", "--preset", "bad", "Q?"),
    "a file by its name": ("ask", "--docs", "docs", "--judge", "broken\x1b[2J.gguf", "Q?"),
    "no such model": ("ask", "--docs", "docs", "--judge", SAID.replace("/", ""), "Q?"),
    "a models.yaml": ("ask", "--models", "hostile.yaml", "--docs", "docs", "Q?"),
    "a models.yaml, examined": ("doctor", "--models", "hostile.yaml"),
    "a models.yaml by a name": ("doctor", "--models", f"{ESCAPES}.yaml"),
    "no such preset": ("ask", "--docs", "docs", "--preset", SAID, "Q?"),
}


def test_what_a_file_says_of_itself_moves_no_cursor_and_does_nothing(hostile: Path) -> None:
    assert SAID in str(read_header(hostile / "hostile\x1b[2J.gguf", model="m").metadata["general.name"])
    environ = {**os.environ, "LOCALFUSION_HOME": str(hostile / "home")}
    told: dict[str, str] = {}
    for what, arguments in COMMANDS.items():
        command = [sys.executable, "-m", "localfusion", *arguments]
        done = subprocess.run(command, cwd=hostile, env=environ, capture_output=True, check=False)
        told[what] = (done.stdout + done.stderr).decode()
        assert not any(mark in told[what] for mark in UNSAFE), (what, told[what])
        assert not any(mark in told[what] for mark in ("Traceback", str(7919 * 7907), "uid=")), (what, told[what])
    assert "it is a web page" in told["a file that is a page"]
    assert "it is a web page" in told["a file by its name"]
    assert "a = hostile" in told["a run"]
    assert told["usage"].startswith("usage: 1 run")
    assert json.loads(told["doctor as JSON"])["presets"]


TERMINAL = """
import io, sys
from rich.console import Console
from localfusion.cli.live import shown
from localfusion.cli.plain import line
from localfusion import codec
from tests.test_untrusted_weights import EVENTS
console = Console(file=io.StringIO(), force_terminal=True, width=90, legacy_windows=False)
with shown(console) as emit:
    for event in EVENTS:
        emit(event)
print(ascii(console.file.getvalue()))
for event in EVENTS:
    print(ascii(line(event) or ""))
"""
EVENTS = (
    RunStarted("run_1", SAID, {"a": SAID, "b": SAID}, SAID, 0, (SAID,)),
    FallbackTaken(Substitution("a", SAID, SAID, "died", SAID)),
    CloudCalled("a", SAID, SAID, SAID, 9, SAID),
    CloudCharged("a", SAID, SAID, Usage(1, 0, 1)),
    Generated("a", SAID, Usage(1, 0, 1), SAID),
    PanelistFailed(FailedModel("b", SAID, SAID, SAID)),
    WarningRaised(SAID),
    RunEnded("error", "all_panels_failed", SAID),
)


def test_the_live_view_shows_text_and_carries_out_nothing() -> None:
    environ = {**os.environ, "TERM": "xterm", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", TERMINAL]
    done = subprocess.run(command, env=environ, cwd=ROOT, capture_output=True, text=True, check=True)
    for mark in ("]0;owned", "\\x07", "\\x9b", "\\u202e"):
        assert f"\\x1b{mark}" not in done.stdout
        assert mark == "]0;owned" or mark not in done.stdout
    assert "\\x1b[2J" not in done.stdout
    assert "[bold red]" in done.stdout


# llama.cpp is in the worker only

PARENT = """
import asyncio, sys
from pathlib import Path
from localfusion.engine import client
from localfusion.messages import GenerateRequest, Message, ModelSpec

async def run(path):
    spec = ModelSpec("m", path, n_ctx=256)
    await client.footprint(spec)
    model = await client.load(spec)
    await model.complete(GenerateRequest("s", (Message("user", "Hello"),), max_tokens=2))
    await model.close()

asyncio.run(run(Path(sys.argv[1])))
from localfusion.cli.main import run as command
command(["doctor"])
command(["models", "--help"])
print(*sorted({name.split(".")[0] for name in sys.modules} & {"llama_cpp", "llguidance", "jinja2"}), sep=",")
"""


def test_dry_runs_loads_and_commands_leave_llama_cpp_to_the_worker(tmp_path: Path) -> None:
    """What the imports say (test_architecture) holds for what is really imported, whichever way it is reached."""
    path = write_tiny_gguf(tmp_path / "tiny.gguf")
    environ = {**os.environ, "LOCALFUSION_HOME": str(tmp_path / "home")}
    command = [sys.executable, "-c", PARENT, str(path)]
    done = subprocess.run(command, env=environ, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == ""
