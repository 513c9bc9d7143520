"""The front of a bundle, read as a stream: its manifest, whose digest and signature are checked before it is believed.

The files behind it are `loading`'s. Nothing is written here.
"""

import io
import os
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256

from localfusion.catalog.bundle.layout import BLOCK_BYTES, END, header, padding, size_in
from localfusion.catalog.bundle.manifest import (
    DIGEST_NAME,
    MANIFEST_NAME,
    MAX_MANIFEST_BYTES,
    MAX_README_BYTES,
    README_NAME,
    SIGNATURE_NAME,
    Manifest,
    Member,
    digest_line,
    from_bytes,
)
from localfusion.catalog.bundle.signature import MAX_SIGNATURE_BYTES, can_check, is_signed, is_signed_by
from localfusion.catalog.copying import BUFFER_BYTES, CutShort, OnBytes, Write, copy, fill, keep_nothing, write_all
from localfusion.errors import ConfigError

AGAIN = "make, copy or fetch the bundle again"


@dataclass(frozen=True, slots=True)
class Front:
    """What was read in front of the files; `digest` is the manifest's, `remarks` say how far it may be trusted."""

    manifest: Manifest
    digest: str
    remarks: tuple[str, ...]


class BundleStream:
    """A bundle that is read front to back, from a file or a pipe; what is not as it must be is a ConfigError."""

    def __init__(self, file: io.RawIOBase, name: str) -> None:
        self._file = file
        self._name = name
        self._peeked = b""

    def damaged(self, problem: str) -> ConfigError:
        """The error for a bundle that is not what its manifest says."""
        return ConfigError(f"{self._name} is refused: {problem}", hint=AGAIN)

    def take(self, n_bytes: int) -> bytes:
        """The next bytes."""
        taken, self._peeked = self._peeked[:n_bytes], self._peeked[n_bytes:]
        rest = bytearray(n_bytes - len(taken))
        try:
            fill(self._file.readinto, memoryview(rest))
        except CutShort as error:
            raise self.damaged("it is cut short") from error
        return taken + bytes(rest)

    def peek(self, n_bytes: int) -> bytes:
        """The next bytes, which are read again."""
        self._peeked = self.take(n_bytes)
        return self._peeked

    def expect(self, expected: bytes, problem: str) -> None:
        """Read what must be there."""
        if self.take(len(expected)) != expected:
            raise self.damaged(problem)

    def small(self, name: str, max_bytes: int) -> bytes:
        """The whole next member, which no manifest names yet."""
        n_bytes = size_in(self.peek(BLOCK_BYTES))
        if n_bytes is None or n_bytes > max_bytes:
            raise self.damaged(f"{name} does not stand where it must, so it is no bundle or a damaged one")
        self.expect(header(name, n_bytes), f"{name} does not stand where it must, so it is no bundle or a damaged one")
        content = self.take(n_bytes)
        self._expect_padding(name, n_bytes)
        return content

    def copy_member(self, member: Member, write: Write = keep_nothing, *, on_bytes: OnBytes) -> None:
        """Read the next member and write its content; raises ConfigError where it is not what the manifest says."""
        self._expect_header(member)
        try:
            found = copy(self._file.readinto, write, member.n_bytes, on_bytes=on_bytes)
        except CutShort as error:
            raise self.damaged("it is cut short") from error
        if found != member.sha256:
            raise self.damaged(f"{member.name} is not what the manifest says")
        self._expect_padding(member.name, member.n_bytes)

    @property
    def is_seekable(self) -> bool:
        """Whether it is a file, and no pipe."""
        return self._file.seekable()

    def resume_member(self, member: Member, begun: io.FileIO, *, on_bytes: OnBytes) -> bool:
        """Read the next member, whose first bytes are in a file already, and write the rest behind them.

        False where both together are not what the manifest says; then the member can be read again.
        """
        start, kept_bytes = self._file.tell() - len(self._peeked), os.fstat(begun.fileno()).st_size
        self._expect_header(member)
        self._file.seek(kept_bytes, io.SEEK_CUR)
        at = 0

        def read_into(buffer: memoryview) -> int | None:
            is_kept = begun.tell() < kept_bytes
            return begun.readinto(buffer) if is_kept else self._file.readinto(buffer)

        def write(buffer: memoryview) -> int | None:
            nonlocal at
            at += len(buffer)
            n_new = min(len(buffer), max(0, at - kept_bytes))
            if n_new:
                write_all(begun.write, buffer[len(buffer) - n_new :])
            return len(buffer)

        try:
            found = copy(read_into, write, member.n_bytes, on_bytes=on_bytes)
        except CutShort as error:
            raise self.damaged("it is cut short") from error
        if found != member.sha256:
            self._file.seek(start)
            self._peeked = b""
            on_bytes(-member.n_bytes)
            return False
        self._expect_padding(member.name, member.n_bytes)
        return True

    def skip_member(self, member: Member, *, on_bytes: OnBytes) -> None:
        """Pass over the content of the next member, which is known from elsewhere."""
        self._expect_header(member)
        if self._file.seekable():
            self._file.seek(member.n_bytes, io.SEEK_CUR)
            on_bytes(member.n_bytes)
        else:
            for start in range(0, member.n_bytes, BUFFER_BYTES):
                on_bytes(len(self.take(min(BUFFER_BYTES, member.n_bytes - start))))
        self._expect_padding(member.name, member.n_bytes)

    def expect_end(self) -> None:
        """Read to the end, where nothing more may be."""
        self.expect(END, "its end is damaged")
        if self._file.read(1):
            raise self.damaged("something stands behind its end")

    def _expect_header(self, member: Member) -> None:
        self.expect(header(member.name, member.n_bytes), f"{member.name} does not stand where the manifest says")

    def _expect_padding(self, name: str, n_bytes: int) -> None:
        self.expect(padding(n_bytes), f"what stands behind {name} is damaged")


def read_front(stream: BundleStream, keys: Sequence[str]) -> Front:
    """The manifest of a bundle. Where there are `keys` it must be signed by one of them; raises ConfigError."""
    readme = stream.small(README_NAME, MAX_README_BYTES)
    raw = stream.small(MANIFEST_NAME, MAX_MANIFEST_BYTES)
    if stream.small(DIGEST_NAME, BLOCK_BYTES) != digest_line(raw):
        raise stream.damaged("its manifest is not what its digest says")
    signature = _signature(stream)
    remarks = _check_signature(stream, raw, signature, keys)
    manifest = from_bytes(raw)
    if sha256(readme).hexdigest() != manifest.members[0].sha256 or len(readme) != manifest.members[0].n_bytes:
        raise stream.damaged(f"{README_NAME} is not what the manifest says")
    return Front(manifest, sha256(raw).hexdigest(), remarks=remarks)


def _signature(stream: BundleStream) -> bytes | None:
    block = stream.peek(BLOCK_BYTES)
    n_bytes = size_in(block)
    if n_bytes is None or n_bytes > MAX_SIGNATURE_BYTES or header(SIGNATURE_NAME, n_bytes) != block:
        return None
    return stream.small(SIGNATURE_NAME, MAX_SIGNATURE_BYTES)


def _check_signature(
    stream: BundleStream, manifest: bytes, signature: bytes | None, keys: Sequence[str]
) -> tuple[str, ...]:
    """What must be said of a signature that nobody here can vouch for; raises ConfigError where it must be a better."""
    if keys:
        if signature is None:
            hint = "load bundles that are signed by a trusted key; localfusion models load --help says which those are"
            raise ConfigError("the bundle is not signed, and trusted keys are named here", hint=hint)
        if not is_signed_by(manifest, signature, keys):
            hint = "name the key of whoever made it with --trust, if you trust them"
            raise ConfigError("the bundle is not signed by a trusted key", hint=hint)
        return ()
    if signature is None:
        return ("the bundle is not signed: nothing says who made it",)
    if not can_check():
        return ("the bundle is signed, and the signature was not looked at: ssh-keygen is not installed",)
    if not is_signed(manifest, signature):
        raise stream.damaged("its signature is damaged")
    return ("the bundle is signed, and no trusted key is named here to check by whom",)
