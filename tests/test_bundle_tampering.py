"""A bundle that is not what its maker wrote: any byte, any length, hand-made tars, manifests that lie, signatures."""

import json
import tarfile
import tempfile
from collections.abc import Callable, Mapping
from contextlib import closing
from hashlib import sha256
from io import BytesIO
from pathlib import Path

import pytest
import zstandard
from hypothesis import example, given, settings
from hypothesis import strategies as st

from localfusion.catalog.bundle.layout import END, header, padding
from localfusion.catalog.bundle.manifest import INDEX_NAME, digest_line
from localfusion.catalog.installed import MODELS_FOLDER
from localfusion.errors import ConfigError
from localfusion.messages import Json
from localfusion.search.documents import DocumentIndex
from localfusion.session import DOCUMENTS_FILE
from tests.bundles import REPO, Home, load_bytes, new_key, small_bundle

Document = dict[str, Json]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return small_bundle(tmp_path_factory.mktemp("bundle")).read_bytes()


@pytest.fixture(scope="module")
def signed(tmp_path_factory: pytest.TempPathFactory) -> tuple[bytes, Path]:
    """A signed bundle, and its key."""
    folder = tmp_path_factory.mktemp("signed")
    key = new_key(folder / "key")
    return small_bundle(folder, "--sign", str(key)).read_bytes(), key


def assert_refused(raw: bytes, says: str = "", keys: tuple[str, ...] = ()) -> None:
    """Refused by name, with nothing left of it."""
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder) / "home"
        with pytest.raises(ConfigError) as refused:
            load_bytes(raw, home, keys)
        assert says in refused.value.message
        assert refused.value.hint
        assert Home(home).contents() == {}
        assert list(home.rglob(".loading")) == []
        with closing(DocumentIndex(home / DOCUMENTS_FILE)) as index:
            assert index.roots() == ()
            assert index.passage_ids() == ()


@settings(max_examples=150)
@given(st.data())
def test_a_flipped_byte_anywhere_is_refused(bundle: bytes, data: st.DataObject) -> None:
    at = data.draw(st.integers(0, len(bundle) - 1), label="at")
    mask = data.draw(st.integers(1, 255), label="mask")
    assert_refused(bundle[:at] + bytes([bundle[at] ^ mask]) + bundle[at + 1 :])


def test_a_flipped_byte_of_each_kind_is_refused(bundle: bytes) -> None:
    """Header, content and padding of every member, and the end."""
    with tarfile.open(fileobj=BytesIO(bundle)) as archive:
        members = archive.getmembers()
    assert len(members) == 7
    places = [len(bundle) - len(END), len(bundle) - 1]
    for member in members:
        start, end = member.offset_data, member.offset_data + member.size
        places += [*range(member.offset, start, 37), start, end - 1, *([end] if member.size % 512 else [])]
    for at in places:
        assert_refused(bundle[:at] + bytes([bundle[at] ^ 1]) + bundle[at + 1 :])


@settings(max_examples=60)
@given(st.data())
def test_a_bundle_cut_at_any_length_is_refused(bundle: bytes, data: st.DataObject) -> None:
    assert_refused(bundle[: data.draw(st.integers(0, len(bundle) - 1))])


def test_what_stands_behind_the_end_is_refused(bundle: bytes) -> None:
    assert_refused(bundle + b"\0", "something stands behind its end")


@settings(max_examples=60)
@given(st.binary(max_size=4096))
@example(b"PK\x03\x04")
@example(END)
def test_bytes_of_another_kind_are_refused(raw: bytes) -> None:
    assert_refused(raw)


def parts_of(bundle: bytes) -> dict[str, bytes]:
    with tarfile.open(fileobj=BytesIO(bundle)) as archive:
        return {member.name: bundle[member.offset_data :][: member.size] for member in archive.getmembers()}


def packed(parts: Mapping[str, bytes]) -> bytes:
    """A bundle in our own layout of whatever members."""
    return b"".join(header(name, len(raw)) + raw + padding(len(raw)) for name, raw in parts.items()) + END


def forged(bundle: bytes, change: Callable[[Document, dict[str, bytes]], None], *, rehash: bool = True) -> bytes:
    """A bundle whose maker meant it: the manifest changed, hashes and sizes made to fit."""
    parts = parts_of(bundle)
    document: Document = json.loads(parts["manifest.json"])
    change(document, parts)
    for member in document["members"] if rehash else ():  # type: ignore[union-attr]
        assert isinstance(member, dict)
        raw = parts.get(str(member["name"]), b"")
        member["n_bytes"], member["sha256"] = len(raw), sha256(raw).hexdigest()
    raw = json.dumps(document).encode()
    return packed({**parts, "manifest.json": raw, "manifest.json.sha256": digest_line(raw)})


def member_of(document: Document, name: str) -> Document:
    members = document["members"]
    assert isinstance(members, list)
    (found,) = [member for member in members if isinstance(member, dict) and member["name"] == name]
    return found


def renamed(old: str, new: str) -> Callable[[Document, dict[str, bytes]], None]:
    def change(document: Document, parts: dict[str, bytes]) -> None:
        member_of(document, old)["name"] = new
        whole = {new if name == old else name: raw for name, raw in parts.items()}
        parts.clear()
        parts.update(whole)

    return change


ONE = f"models/{REPO}/one.gguf"


def test_a_forgery_that_changes_nothing_is_loaded(bundle: bytes, tmp_path: Path) -> None:
    """The forger of this file works: what it makes is refused for what was changed, not for how it was made."""
    load_bytes(forged(bundle, lambda document, _: document.update(created="2026-01-02T03:04:05Z")), tmp_path / "home")
    assert (tmp_path / "home" / MODELS_FOLDER / REPO / "one.gguf").exists()


PATHS = (
    "/etc/passwd",
    "../one.gguf",
    "models/../../one.gguf",
    "models/harbour/micro-GGUF/../one.gguf",
    "models//one.gguf",
    "models/./one.gguf",
    "models/.loading/x/one.gguf",
    "models\\one.gguf",
    "models/harbour/micro-GGUF/one.gguf\0",
    "models/harbour/micro-GGUF/one\n.gguf",
    "models/harbour/micro-GGUF/ONE.gguf",
    "models/harbour/micro-GGUF/two.gguf",
    "models/harbour/micro-GGUF/TWO.GGUF",
    "models/harbour/micro-GGUF/two.gguf/one.gguf",
    "models/harbour/other/one.gguf",
    "models/C:/one.gguf",
    "models/harbour/micro-GGUF/one.gguf.",
    "models.d/bundle-x.yaml",
    "trusted_bundle_keys",
    "manifest.json",
    "MANIFEST.json.sig",
    "",
    "models/" + "a/" * 300 + "one.gguf",
)


@pytest.mark.parametrize("name", PATHS)
def test_a_manifest_that_names_another_place_is_refused(bundle: bytes, name: str) -> None:
    try:
        raw = forged(bundle, renamed(ONE, name))
    except UnicodeEncodeError:
        pytest.skip("the layout has no room for it")
    assert_refused(raw, "the manifest of the bundle is refused")


def entry(name: str, kind: bytes = tarfile.REGTYPE, **fields: str | int) -> tarfile.TarInfo:
    made = tarfile.TarInfo(name)
    made.type = kind
    for field, value in fields.items():
        setattr(made, field, value)
    return made


HAND_MADE: Mapping[str, tuple[tarfile.TarInfo, bytes]] = {
    "a link": (entry(ONE, tarfile.SYMTYPE, linkname="/etc/passwd"), b""),
    "a hard link": (entry(ONE, tarfile.LNKTYPE, linkname="README.txt"), b""),
    "a device": (entry(ONE, tarfile.CHRTYPE, devmajor=1, devminor=3), b""),
    "a fifo": (entry(ONE, tarfile.FIFOTYPE), b""),
    "a folder": (entry(ONE, tarfile.DIRTYPE), b""),
    "an absolute path": (entry("/tmp/one.gguf", size=4), b"GGUF"),
    "a path upwards": (entry("../one.gguf", size=4), b"GGUF"),
    "an unlisted member": (entry("models/x/y/z.gguf", size=4), b"GGUF"),
    "another size": (entry(ONE, size=4), b"GGUF"),
    "a huge size": (entry(ONE, size=2**40), b"GGUF"),
    "a program's mode": (entry(ONE, size=4, mode=0o4755), b"GGUF"),
    "another owner": (entry(ONE, size=4, uid=7), b"GGUF"),
    "an extended header": (entry("models/" + "a" * 120 + "/one.gguf", size=4), b"GGUF"),
}


@pytest.mark.parametrize("kind", HAND_MADE)
def test_a_hand_made_member_is_refused(bundle: bytes, kind: str) -> None:
    """In front of the first model, instead of it, and behind everything."""
    made, content = HAND_MADE[kind]
    raw = made.tobuf(tarfile.PAX_FORMAT) + content + padding(len(content))
    with tarfile.open(fileobj=BytesIO(bundle)) as archive:
        first = archive.getmember(ONE)
    end = first.offset_data + first.size + len(padding(first.size))
    for tampered in (
        bundle[: first.offset] + raw + bundle[first.offset :],
        bundle[: first.offset] + raw + bundle[end:],
        bundle[: -len(END)] + raw + END,
    ):
        assert_refused(tampered)


def without(name: str) -> Callable[[Document, dict[str, bytes]], None]:
    def change(document: Document, _: dict[str, bytes]) -> None:
        del document[name]

    return change


def with_index(raw: bytes, unpacked_bytes: int | None = None) -> Callable[[Document, dict[str, bytes]], None]:
    def change(document: Document, parts: dict[str, bytes]) -> None:
        parts[INDEX_NAME] = raw
        if unpacked_bytes is not None:
            member_of(document, INDEX_NAME)["unpacked_bytes"] = unpacked_bytes

    return change


def with_lines(*lines: Json) -> Callable[[Document, dict[str, bytes]], None]:
    raw = b"".join(json.dumps(line).encode() + b"\n" for line in lines)
    return with_index(zstandard.compress(raw), len(raw))


def set_at(*keys: str, value: Json) -> Callable[[Document, dict[str, bytes]], None]:
    def change(document: Document, _: dict[str, bytes]) -> None:
        inner = document
        for key in keys[:-1]:
            found = inner[key]
            assert isinstance(found, dict)
            inner = found
        inner[keys[-1]] = value

    return change


def with_member(**fields: Json) -> Callable[[Document, dict[str, bytes]], None]:
    return lambda document, _: member_of(document, ONE).update(fields)


def with_model(raw: bytes) -> Callable[[Document, dict[str, bytes]], None]:
    return lambda _, parts: parts.update({ONE: raw})


PAGE: Document = {
    "path": "a.md",
    "size": 1,
    "content_sha256": "0" * 64,
    "title": "",
    "text": "x",
    "passages": [{"headings": "", "text": "x"}],
}
LIES: Mapping[str, tuple[Callable[[Document, dict[str, bytes]], None], str]] = {
    "a later format": (set_at("format", value=2), "the bundle has format 2"),
    "no format": (without("format"), "format"),
    "an unknown key": (set_at("hook", value="rm -rf ."), "hook"),
    "no members": (set_at("members", value=[]), "members"),
    "members that are no list": (set_at("members", value={}), "members"),
    "another preset": (set_at("preset", value="other"), "other presets"),
    "a provider": (set_at("models", "providers", value={"x": {"base_url": "http://x.example"}}), "providers"),
    "a path elsewhere": (set_at("models", "models", "own", "path", value="/etc/passwd"), "own is not in it"),
    "a path upwards": (set_at("models", "models", "own", "path", value="../../x.gguf"), "own is not in it"),
    "a file that is not in it": (set_at("models", "models", "one", "hub", "file", value="x.gguf"), "one is not in it"),
    "an alias for something else": (set_at("models", "aliases", "default", value="small"), "names models"),
    "a model nobody uses": (set_at("models", "models", "spare", value={"shipped": "micro-a.gguf"}), "does not name"),
    "an impossible model": (set_at("models", "models", "one", "n_batch", value=32), "n_ubatch"),
    "a role for another place": (with_member(role="wheel"), "is no place for its role"),
    "a packed model": (with_member(packed="zstd", unpacked_bytes=5), "packed in a way"),
    "a repository upwards": (with_member(model={"repo": "../x", "file": "one.gguf"}), "is not where"),
    "a negative size": (with_member(n_bytes=-1), "n_bytes"),
    "a model that is none": (with_model(b"<html>not found</html>"), "is not a GGUF"),
    "a model that is cut": (with_model(b"GGUF\3\0\0\0\1"), "is damaged"),
    "an index that is not packed": (with_index(b"{}", 2), "cannot be unpacked"),
    "an index that is larger": (with_index(zstandard.compress(b" " * 9999), 9), "larger than the manifest says"),
    "an index that is smaller": (with_index(zstandard.compress(b"\n"), 9), "refused"),
    "an index that fills the disk": (with_index(zstandard.compress(bytes(10**8)), 400), "larger"),
    "a document that is none": (with_lines({"path": "a.md"}), "document 1"),
    "a document upwards": (with_lines({**PAGE, "path": "../a.md"}), "document 1"),
    "an absolute document": (with_lines({**PAGE, "path": "/a.md"}), "document 1"),
    "a document twice": (with_lines(PAGE, PAGE), "document 2"),
    "a document behind a backslash": (with_lines({**PAGE, "path": "..\\a.md"}), "document 1"),
    "a document of a drive": (with_lines({**PAGE, "path": "C:/a.md"}), "document 1"),
    "a document with a line break": (with_lines({**PAGE, "path": "a\nb.md"}), "document 1"),
    "a document without a path": (with_lines({**PAGE, "path": ""}), "document 1"),
    "a document that is half a character": (with_lines({**PAGE, "text": "\ud800"}), "document 1"),
    "fewer documents than it says": (with_lines(PAGE), "documents"),
}


@pytest.mark.parametrize("kind", LIES)
def test_a_manifest_that_lies_is_refused(bundle: bytes, kind: str) -> None:
    change, says = LIES[kind]
    assert_refused(forged(bundle, change, rehash=kind != "a negative size" and kind[-4:] != "list"), says)


def test_sizes_beyond_the_disk_are_not_begun(bundle: bytes, tmp_path: Path) -> None:
    raw = forged(bundle, with_member(n_bytes=2**49), rehash=False)
    done = Home(tmp_path / "home").run("models", "load", "-", stdin=raw)
    assert (done.code, "are needed on the disk of" in done.err) == (1, True)
    assert Home(tmp_path / "home").contents() == {}


MALFORMED = (b"", b"{", b"[]", b"null", b"\xff", b"[" * 100_000, b'{"format": 1, "format": 1}', b'{"format": NaN}')


@pytest.mark.parametrize("raw", MALFORMED)
def test_a_manifest_that_does_not_parse_is_refused(bundle: bytes, raw: bytes) -> None:
    parts = {**parts_of(bundle), "manifest.json": raw, "manifest.json.sha256": digest_line(raw)}
    assert_refused(packed(parts), "the manifest of the bundle is refused")


@pytest.mark.parametrize("kind", [("-t", "ed25519"), ("-t", "rsa", "-b", "2048"), ("-t", "ecdsa")])
def test_a_bundle_that_is_signed_by_a_trusted_key_is_loaded(kind: tuple[str, ...], tmp_path: Path) -> None:
    key = new_key(tmp_path / "key", *kind)
    file = small_bundle(tmp_path / "made", "--sign", str(key))
    home = Home(tmp_path / "home")
    done = home.run("models", "load", str(file), "--trust", str(key.with_suffix(".pub")))
    assert (done.code, "warning" in done.err) == (0, False), done.err
    home.path.joinpath("trusted_bundle_keys").write_text(f"# ours\n\n{key.with_suffix('.pub').read_text()}")
    again = home.run("models", "load", str(file))
    assert (again.code, "warning" in again.err) == (0, False), again.err


def test_another_key_or_none_is_refused_where_keys_are_trusted(
    bundle: bytes, signed: tuple[bytes, Path], tmp_path: Path
) -> None:
    raw, _ = signed
    other = new_key(tmp_path / "other").with_suffix(".pub")
    home = Home(tmp_path / "home")
    wrong = home.run("models", "load", "-", "--trust", str(other), stdin=raw)
    assert (wrong.code, "not signed by a trusted key" in wrong.err) == (2, True)
    home.path.joinpath("trusted_bundle_keys").write_text(other.read_text())
    missing = home.run("models", "load", "-", stdin=bundle)
    assert (missing.code, "the bundle is not signed" in missing.err) == (2, True)
    assert home.contents() == {}


def test_a_signature_is_of_its_own_manifest(bundle: bytes, signed: tuple[bytes, Path]) -> None:
    raw, key = signed
    signature = parts_of(raw)["manifest.json.sig"]
    parts = parts_of(bundle)
    front = {name: parts.pop(name) for name in ("README.txt", "manifest.json", "manifest.json.sha256")}
    moved = packed({**front, "manifest.json.sig": signature, **parts})
    public = " ".join(key.with_suffix(".pub").read_text().split()[:2])
    assert_refused(moved, "not signed by a trusted key", (public,))
    assert_refused(moved, "its signature is damaged")


@settings(max_examples=25)
@given(st.data())
def test_a_flipped_byte_of_a_signature_is_refused_or_changes_nothing(
    signed: tuple[bytes, Path], data: st.DataObject
) -> None:
    raw, key = signed
    start = raw.index(b"-----BEGIN SSH SIGNATURE")
    at = start + data.draw(st.integers(0, len(parts_of(raw)["manifest.json.sig"]) - 1))
    flipped = raw[:at] + bytes([raw[at] ^ data.draw(st.integers(1, 255))]) + raw[at + 1 :]
    public = " ".join(key.with_suffix(".pub").read_text().split()[:2])
    with tempfile.TemporaryDirectory() as folder:
        first, second = Path(folder) / "first", Path(folder) / "second"
        try:
            load_bytes(flipped, first, (public,))
        except ConfigError:
            assert Home(first).contents() == {}
        else:  # white space, or bits that base64 does not use
            load_bytes(raw, second, (public,))
            mine, other = Home(first).contents(), Home(second).contents()
            assert {name: text.replace(b"first", b"second") for name, text in mine.items()} == other


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "holds no public key"),
        ("no key\n", ":1: "),
        ("ssh-ed25519 !!\n", ":1: "),
        ("\xff", ""),
    ],
)
def test_files_without_keys_are_refused(text: str, says: str, bundle: bytes, tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text(text, encoding="latin-1")
    done = Home(tmp_path / "home").run("models", "load", "-", "--trust", str(keys), stdin=bundle)
    assert done.code == 2
    assert says in done.err
