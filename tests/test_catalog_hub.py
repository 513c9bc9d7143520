"""The door to the hub: what the real client makes of a real server's answers, and what a person is told of it."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.hub_home import MICRO, HubHome, sha256
from tests.hub_server import Fault, HubServer, Repo, serve_hub

FILE = "micro-a.gguf"
HTML = b"<!doctype html><title>Log in</title>" + b" " * 5_000


@pytest.fixture
def hub() -> Iterator[HubServer]:
    repos = {
        "lab/micro": Repo(dict(MICRO)),
        "lab/gated": Repo(dict(MICRO), gated=True),
        "lab/private": Repo(dict(MICRO), private=True),
        "lab/hashless": Repo(dict(MICRO), plain_etag=True),
    }
    with serve_hub(repos) as server:
        yield server


@pytest.fixture
def home(tmp_path: Path, hub: HubServer) -> HubHome:
    return HubHome(tmp_path, hub)


def entry(repo: str = "lab/micro", file: str = FILE, more: str = "") -> str:
    return f"models:\n  ra: {{hub: {{repo: {repo}, file: {file}{more}}}}}\n"


REFUSALS: tuple[tuple[str, str, dict[str, str], Fault, str, str], ...] = (
    ("no such repository", entry("lab/none"), {}, Fault(), "the hub has no lab/none", "hf auth login"),
    ("no such file", entry(file="none.gguf"), {}, Fault(), "has no file none.gguf at main", "/lab/micro/tree/main"),
    ("no such revision", entry(more=", revision: v9"), {}, Fault(), "has no revision v9", "`revision`"),
    ("gated, nobody logged in", entry("lab/gated"), {}, Fault(), "lab/gated is gated", "/lab/gated, then log in"),
    ("gated, no access", entry("lab/gated"), {"HF_TOKEN": "hf_right"}, Fault(), "is gated", "accept its terms on"),
    ("a bad token", entry(), {"HF_TOKEN": "hf_wrong"}, Fault(), "does not take the token", "HF_TOKEN"),
    ("private", entry("lab/private"), {}, Fault(), "shows it to others only", "HF_TOKEN"),
    ("no hash at all", entry("lab/hashless"), {}, Fault(), "names no sha256", "all 64 digits"),
    ("forbidden", entry(), {}, Fault(status=403, at_hub=True), "is gated", "accept its terms"),
    ("a range that is not there", entry(), {}, Fault(status=416), "has fewer bytes of lab/micro", "fetch it again"),
    ("gone at the storage", entry(), {}, Fault(status=410), "refuses lab/micro/micro-a.gguf with 410", "browser"),
    ("in trouble", entry(), {}, Fault(status=503), "is in trouble (503)", "try again later"),
    ("too many requests", entry(), {}, Fault(status=429, at_hub=True), "fewer requests (429)", "try again later"),
    (
        "a login page",
        entry(),
        {},
        Fault(body=HTML, media_type="text/html", at_hub=True),
        "not answer as",
        "HF_ENDPOINT",
    ),
    ("a web page as the file", entry(), {}, Fault(body=HTML, media_type="text/html; x"), "a web page", "HF_ENDPOINT"),
    ("a page that says it is a file", entry(), {}, Fault(body=HTML), "another length", "proxies"),
    ("another range", entry(), {}, Fault(content_range="bytes 5-9/3111104"), "another range", "try again"),
    ("offline by the hub's switch", entry(), {"HF_HUB_OFFLINE": "1"}, Fault(), "HF_HUB_OFFLINE", "unset"),
    ("nobody there", entry(), {"HF_ENDPOINT": "http://127.0.0.1:9"}, Fault(), "is not reached", "check the network"),
    ("no address at all", entry(), {"HF_ENDPOINT": "nonsense"}, Fault(), "cannot be asked", "HF_ENDPOINT"),
)


@pytest.mark.parametrize(
    ("models", "environ", "fault", "said", "hint"), [r[1:] for r in REFUSALS], ids=[r[0] for r in REFUSALS]
)
def test_what_the_hub_refuses_is_explained(
    home: HubHome, models: str, environ: dict[str, str], fault: Fault, said: str, hint: str
) -> None:
    home.write_models(models)
    home.hub.faults[FILE] = fault
    done = home.run("pull", "ra", environ=environ)
    lines = {line.split(":")[0]: line for line in done.stderr.splitlines()}
    assert done.returncode in (1, 2)
    assert said in lines["error"]
    assert hint in lines["hint"]
    assert home.whole() == []
    assert "Traceback" not in done.stderr


def test_offline_by_the_settings_asks_nobody(home: HubHome) -> None:
    home.home.mkdir()
    (home.home / "config.yaml").write_text("offline: true\n")
    done = home.run("pull", "ra")
    assert (done.returncode, done.stdout) == (2, "")
    assert "nothing is fetched offline" in done.stderr
    assert home.hub.asked == []


def test_a_token_goes_to_the_hub_and_to_nobody_else(home: HubHome) -> None:
    home.write_models(entry("lab/private"))
    assert home.run("pull", "ra", environ={"HF_TOKEN": home.hub.token}).returncode == 0
    at_hub = [asked for asked in home.hub.asked if "/resolve/" in asked.path]
    at_storage = [asked for asked in home.hub.asked if "/resolve/" not in asked.path]
    assert {asked.authorization for asked in at_hub} == {f"Bearer {home.hub.token}"}
    assert {asked.authorization for asked in at_storage} == {""}


def test_a_password_of_the_address_is_not_shown(home: HubHome) -> None:
    done = home.run("pull", "ra", environ={"HF_ENDPOINT": "http://me:secret@127.0.0.1:9"})
    assert done.returncode == 1
    assert "secret" not in done.stderr
    assert "http://127.0.0.1:9 is not reached" in done.stderr


def test_the_token_of_hf_auth_login_is_used(home: HubHome) -> None:
    home.write_models(entry("lab/private"))
    (home.folder / "hf").mkdir()
    (home.folder / "hf" / "token").write_text(home.hub.token)
    assert home.run("pull", "ra").returncode == 0


def test_nothing_is_told_of_this_machine_and_nothing_of_the_hub_is_printed(home: HubHome) -> None:
    done = home.run("pull", "ra", environ={"CURSOR_AGENT": "1"})
    assert done.returncode == 0
    assert "what servers say" not in done.stderr
    assert {part.split("/")[0] for asked in home.hub.asked for part in asked.user_agent.split("; ")} == {
        "localfusion",
        "hf_hub",
        "python",
    }
    assert {asked.path.split("/")[1] for asked in home.hub.asked} == {"lab"}, "neither telemetry nor Xet"


def test_a_hub_that_recovers_is_asked_again(home: HubHome) -> None:
    home.hub.faults[FILE] = Fault(times=1, status=429, at_hub=True, headers={"Retry-After": "1"})
    assert home.run("pull", "ra").returncode == 0
    assert sha256(home.pulled().read_bytes()) == sha256(MICRO[FILE])


def test_a_cut_is_mended_within_one_pull_and_no_byte_is_asked_for_twice(home: HubHome) -> None:
    home.hub.faults[FILE] = Fault(times=2, cut_after=1_000_000)
    done = home.run("pull", "ra")
    assert done.returncode == 0, done.stderr
    assert home.pulled().read_bytes() == MICRO[FILE]
    asked = [one.range for one in home.hub.asked if one.sent]
    assert asked == [f"bytes={start}-{len(MICRO[FILE]) - 1}" for start in (0, 1_000_000, 2_000_000)]
    assert home.hub.sent_bytes() == len(MICRO[FILE])


def test_a_server_that_knows_no_ranges_is_read_from_the_start(home: HubHome) -> None:
    home.hub.faults[FILE] = Fault(ignores_range=True, cut_after=500_000, times=1)
    with home.start("pull", "ra") as process:  # goes on in itself, from a server that begins anew
        process.communicate(timeout=120)
    home.pulled().unlink()
    home.hub.faults[FILE] = Fault(ignores_range=True)
    assert home.run("pull", "ra").returncode == 0
    assert home.pulled().read_bytes() == MICRO[FILE]


ENVIRONMENTS: tuple[tuple[dict[str, str], str], ...] = (
    ({"ALL_PROXY": "socks5://127.0.0.1:1080"}, "check ALL_PROXY"),
    ({"HTTP_PROXY": "nonsense://x"}, "HTTP_PROXY"),
    ({"SSL_CERT_FILE": "/nonexistent"}, "SSL_CERT_FILE"),
    ({"HF_TOKEN_PATH": "/"}, "HF_TOKEN_PATH"),
    ({"HF_HUB_ETAG_TIMEOUT": "abc"}, "correct or unset HF_HUB_ETAG_TIMEOUT"),
    ({"HF_HUB_DOWNLOAD_TIMEOUT": "x"}, "correct or unset HF_HUB_DOWNLOAD_TIMEOUT"),
    ({"HF_HUB_DOWNLOAD_TIMEOUT": "-1"}, "correct or unset HF_HUB_DOWNLOAD_TIMEOUT"),
)


@pytest.mark.parametrize(("variables", "hint"), ENVIRONMENTS, ids=[str(row[0]) for row in ENVIRONMENTS])
def test_an_environment_that_no_client_can_be_made_of(home: HubHome, variables: dict[str, str], hint: str) -> None:
    done = home.run("pull", "ra", environ=variables)
    lines = done.stderr.splitlines()
    assert (done.returncode, [line.split(":")[0] for line in lines]) == (2, ["error", "hint"]), done.stderr
    assert hint in lines[1]
    assert home.hub.asked == []
    done = home.run("fit", environ=variables)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr


def test_what_needs_no_hub_does_not_notice_its_variables(home: HubHome) -> None:
    nonsense = {"HF_HUB_ETAG_TIMEOUT": "abc"}
    assert home.run("pull", "ra").returncode == 0
    for command in (("list",), ("verify",), ("lint",), ("remove", "ra", "--yes")):
        assert home.run(*command, environ=nonsense).returncode == 0, command
