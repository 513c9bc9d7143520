"""What the model hub says of a file, and the bytes of it, by huggingface_hub. Keeps nothing and decides nothing.

The client is huggingface_hub's own, so HF_ENDPOINT, HF_TOKEN, `hf auth login` and proxies count as everywhere else.
Of it only the session, its headers and its look at a file are used: its downloads start anew after a killed one.
Every foreign error leaves as a HubError. Imported by `hub` only once a hub is asked.
"""

import logging
import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TypeVar

import httpx2
from huggingface_hub import constants, get_session
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, OfflineModeIsEnabled
from huggingface_hub.file_download import get_hf_file_metadata, hf_hub_url
from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]

from localfusion import __version__
from localfusion.catalog.hub import HubFile, HubUnreachable
from localfusion.catalog.installed import is_commit
from localfusion.errors import ConfigError, HubError

T = TypeVar("T")

WAITS_S = (0.5, 1.0, 2.0)
"""Before what failed in passing is tried again; data that comes begins these anew."""
LONGEST_WAIT_S = 60.0
"""Of what a hub may ask for (Retry-After)."""
PASSING = frozenset({408, 429, 500, 502, 503, 504})
MOST_FILE_BYTES = 1 << 42

_SHA256 = re.compile(r"[0-9a-f]{64}")
_CONTENT_RANGE = re.compile(r"bytes (\d{1,19})-(\d{1,19})/(\d{1,19})")
_BAD_TOKEN = "invalid credentials"
_FOREIGN = (
    httpx2.HTTPError,
    httpx2.InvalidURL,
    httpx2.StreamError,
    HfHubHTTPError,
    HFValidationError,
    OfflineModeIsEnabled,
    UnicodeError,
)
"""All that the client raises; what is none of these is a mistake of ours."""


class _PassingError(HubError):
    """Something that may be over when it is tried again, after `wait_s` where the hub says when."""

    wait_s: float | None = None


class _LostError(_PassingError, HubUnreachable):
    """Nobody answers: worth another try only where somebody did just now."""


def open_client() -> "HubClient":
    """The client of this process's environment; raises ConfigError where the client cannot be made of that."""
    if constants.is_offline_mode():
        raise ConfigError("nothing is fetched with HF_HUB_OFFLINE set", hint="unset HF_HUB_OFFLINE")
    client = HubClient()  # before anything else: it is what turns telemetry off
    try:
        get_session()
        build_hf_headers(library_name="localfusion", library_version=__version__)
    except (ImportError, ValueError, OSError) as error:
        raise ConfigError(
            f"the hub cannot be asked with these variables: {str(error).splitlines()[0] if str(error) else error!r}",
            hint="check ALL_PROXY, HTTP_PROXY, HTTPS_PROXY, SSL_CERT_FILE, HF_TOKEN_PATH",
        ) from error
    return client


class HubClient:
    """Files of the hub. Any thread may use it; `pause` waits that many seconds."""

    def __init__(self, *, pause: Callable[[float], None] = time.sleep) -> None:
        self._pause = pause
        constants.HF_HUB_DISABLE_TELEMETRY = True
        # What it would log is what servers say, and that reaches a terminal only as an error of ours.
        logging.getLogger("huggingface_hub").setLevel(logging.CRITICAL + 1)

    def look(self, repo: str, file: str, revision: str) -> HubFile:
        """What the hub says of a file; raises HubError."""
        return self._patiently(lambda: _look(repo, file, revision))

    def read(self, file: HubFile, start: int = 0, stop: int | None = None) -> Iterator[bytes]:
        """The bytes of a file from `start` to before `stop`, as they come; after a cut it goes on where that was.

        Never yields more or fewer bytes. Raises HubError.
        """
        at, end = start, file.n_bytes if stop is None else min(stop, file.n_bytes)
        n_failed = 0
        while at < end:
            try:
                for piece in _stream(file, at, end):
                    yield piece
                    at, n_failed = at + len(piece), 0
            except _PassingError as error:
                if isinstance(error, HubUnreachable) and at == start:
                    raise
                self._wait(error, n_failed)
                n_failed += 1

    def _patiently(self, call: Callable[[], T]) -> T:
        n_failed = 0
        while True:
            try:
                return call()
            except _LostError:
                raise
            except _PassingError as error:
                self._wait(error, n_failed)
                n_failed += 1

    def _wait(self, error: _PassingError, n_failed: int) -> None:
        """Wait before it is tried again, or raise the error where it was tried often enough."""
        if n_failed >= len(WAITS_S):
            raise error
        self._pause(min(LONGEST_WAIT_S, max(WAITS_S[n_failed], error.wait_s or 0)))


def _look(repo: str, file: str, revision: str) -> HubFile:
    with _mapped(repo, file, revision):
        url = hf_hub_url(repo, file, revision=revision)
        found = get_hf_file_metadata(
            url, timeout=constants.HF_HUB_ETAG_TIMEOUT, library_name="localfusion", library_version=__version__
        )
    if found.commit_hash is None or not is_commit(found.commit_hash):
        raise HubError(
            repo,
            f"{_address()} does not answer as a model hub does",
            hint="check HF_ENDPOINT, and whether a proxy or a login page of this network stands before it",
        )
    if found.size is None or not 0 < found.size <= MOST_FILE_BYTES:
        raise HubError(repo, f"the hub names no possible length of {repo}/{file}", hint="choose another file")
    etag = found.etag or ""
    return HubFile(repo, file, found.commit_hash, found.size, etag if _SHA256.fullmatch(etag) else "")


def _stream(file: HubFile, start: int, stop: int) -> Iterator[bytes]:
    """One answer to one request; raises HubError where it is another file's, and _PassingError where it ends early."""
    with _mapped(file.repo, file.file, file.commit):
        headers = build_hf_headers(library_name="localfusion", library_version=__version__) | {
            "Accept-Encoding": "identity",
            "Range": f"bytes={start}-{stop - 1}",
        }
        url = hf_hub_url(file.repo, file.file, revision=file.commit)
        with get_session().stream(
            "GET", url, headers=headers, follow_redirects=True, timeout=constants.HF_HUB_DOWNLOAD_TIMEOUT
        ) as response:
            at = _begins_at(file, start, response)
            for piece in response.iter_raw():
                wanted = piece[max(0, start - at) : stop - at]
                at += len(piece)
                if wanted:
                    yield wanted
                if at >= stop:
                    return
    raise _PassingError(file.repo, f"{file.repo}/{file.file} was cut off after {at} bytes", hint="try again")


def _begins_at(file: HubFile, start: int, response: httpx2.Response) -> int:
    """The place in the file that the answer begins at; 0 from a server that knows no ranges. Raises HubError."""
    if response.status_code not in (200, 206):
        raise _refusal(file.repo, file.file, file.commit, response.status_code, response.headers)
    if response.headers.get("Content-Encoding", "identity") != "identity":
        raise _other_than_asked(file, "it is compressed")
    if response.headers.get("Content-Type", "").lower().startswith("text/html"):
        raise _other_than_asked(file, "it is a web page")
    if response.status_code == 200:
        length = response.headers.get("Content-Length", str(file.n_bytes))
        if length != str(file.n_bytes):
            raise _other_than_asked(file, f"it has {length} bytes instead of {file.n_bytes}")
        return 0
    named = _CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", ""))
    if named is None or int(named[1]) != start or int(named[3]) != file.n_bytes:
        raise _other_than_asked(file, "it is another range, or of a file of another length")
    return start


def _other_than_asked(file: HubFile, why: str) -> HubError:
    return HubError(
        file.repo,
        f"what the hub sends for {file.repo}/{file.file} is not what was asked for: {why}",
        hint="try again; if it stays so, check HF_ENDPOINT and the proxies of this network",
    )


def _address() -> str:
    """Where the hub is, as it may be shown: HF_ENDPOINT may hold a password."""
    return re.sub(r"//[^/@]*@", "//", constants.ENDPOINT)


@contextmanager
def _mapped(repo: str, file: str, revision: str) -> Iterator[None]:
    """Every foreign error as a HubError."""
    try:
        yield
    except _FOREIGN as error:
        if isinstance(error, HfHubHTTPError):
            response = error.response
            raise _refusal(repo, file, revision, response.status_code, response.headers) from error
        raise _failure(repo, file, error) from error


def _failure(repo: str, file: str, error: Exception) -> HubError:
    """What went wrong before the hub answered, or within its answer."""
    if isinstance(error, OfflineModeIsEnabled):
        return HubError(repo, "nothing is fetched with HF_HUB_OFFLINE set", hint="unset HF_HUB_OFFLINE")
    if isinstance(error, httpx2.ConnectError | httpx2.ConnectTimeout | httpx2.ProxyError):
        hint = "check the network, HF_ENDPOINT and proxies; what is here already needs no hub"
        return _LostError(repo, f"the hub at {_address()} is not reached: {error}", hint=hint)
    if isinstance(error, httpx2.TimeoutException):
        return _PassingError(repo, f"the hub at {_address()} does not answer in time", hint="try again later")
    if isinstance(error, httpx2.NetworkError | httpx2.RemoteProtocolError):
        hint = "try again; what came is kept"
        return _PassingError(repo, f"the connection broke while {repo}/{file} was read", hint=hint)
    if isinstance(error, HFValidationError):
        return HubError(repo, f"{repo} is no name of a repository", hint="correct `repo` in models.yaml")
    return HubError(repo, f"the hub at {_address()} cannot be asked: {error}", hint="check HF_ENDPOINT, HF_TOKEN")


def _refusal(repo: str, file: str, revision: str, status: int, headers: Mapping[str, str]) -> HubError:
    """The hub's own refusal: by its code where it names one, else by the status."""
    code, said = headers.get("X-Error-Code", ""), headers.get("X-Error-Message", "").lower()
    page = f"{_address()}/{repo}"
    if status == 401 and _BAD_TOKEN in said:
        hint = "set HF_TOKEN to one that is valid, unset it, or log in anew with `hf auth login`"
        return HubError(repo, "the hub does not take the token that is sent to it", status=status, hint=hint)
    if code == "GatedRepo" or status == 403:
        hint = f"accept its terms on {page}, then log in with `hf auth login` or set HF_TOKEN"
        return HubError(
            repo, f"{repo} is gated: the hub gives it only to who accepted its terms", status=status, hint=hint
        )
    if code == "RevisionNotFound":
        hint = f"correct `revision` in models.yaml; {page} lists what there is"
        return HubError(repo, f"{repo} has no revision {revision}", status=status, hint=hint)
    if code == "EntryNotFound":
        hint = f"correct `file` in models.yaml; {page}/tree/{revision} lists what there is"
        return HubError(repo, f"{repo} has no file {file} at {revision}", status=status, hint=hint)
    if code == "RepoNotFound" or status in (401, 404):
        hint = "correct `repo` in models.yaml; for a private one log in with `hf auth login` or set HF_TOKEN"
        return HubError(repo, f"the hub has no {repo}, or shows it to others only", status=status, hint=hint)
    return _refusal_by_status(repo, file, status, headers)


def _refusal_by_status(repo: str, file: str, status: int, headers: Mapping[str, str]) -> HubError:
    if status == 416:
        hint = "fetch it again; if it stays so, what is behind HF_ENDPOINT is out of step with itself"
        return HubError(repo, f"the hub has fewer bytes of {repo}/{file} than it says", status=status, hint=hint)
    if status not in PASSING:
        return HubError(
            repo, f"the hub refuses {repo}/{file} with {status}", status=status, hint="look at it in a browser"
        )
    why = "asks for fewer requests" if status == 429 else "is in trouble"
    error = _PassingError(repo, f"the hub {why} ({status})", status=status, hint="try again later")
    after = headers.get("Retry-After", "")
    error.wait_s = float(after) if after.isascii() and after.isdigit() and len(after) < 6 else None
    return error
