"""The guard as users have it, end to end, in a network namespace whose loopback carries public addresses."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.web_in_namespace import IPV4, IPV6

OPEN = {
    "http://four.example/",
    "http://six.example/",
    "http://both.example/",
    "http://1572395042/",
    f"http://{IPV4}/",
    f"http://[{IPV6}]/",
    f"http://[::ffff:{IPV4}]/",
}
SETUP = f"ip link set lo up && ip addr add {IPV4}/32 dev lo && ip addr add {IPV6}/128 dev lo nodad"
WAYS = (["unshare", "--net"], ["unshare", "--net", "--map-root-user"])
"""As root, and as a user who may make a namespace of users."""


@pytest.fixture(scope="module")
def unshare() -> list[str]:
    """The command that opens such a namespace."""
    if shutil.which("unshare") is None or shutil.which("ip") is None:
        pytest.skip("unshare or ip is not installed")
    for way in WAYS:
        if subprocess.run([*way, "sh", "-c", SETUP], capture_output=True, check=False).returncode == 0:
            return way
    pytest.skip("no network namespace with addresses of its own may be made here")


def test_public_addresses_are_fetched_from_and_no_others(unshare: list[str]) -> None:
    command = [*unshare, "sh", "-c", f'{SETUP} && exec "$0" -m tests.web_in_namespace', sys.executable]
    ran = subprocess.run(
        command, cwd=Path(__file__).parent.parent, capture_output=True, text=True, timeout=120, check=False
    )
    assert ran.returncode == 0, ran.stderr
    told = json.loads(ran.stdout)
    assert told["connections_inside"] == 0
    for how in ("asked", "redirected"):
        assert {url for url, text in told[how].items() if text == "open"} == OPEN
        assert all(text == "open" or text.startswith("refused: ") for text in told[how].values())
        assert len(told[how]) >= 120
