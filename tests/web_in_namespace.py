"""Run inside a network namespace whose loopback carries public addresses: the guard as it is, end to end.

Writes what every request came to as one JSON object; `tests/test_search_namespace.py` starts it and reads that.
"""

import asyncio
import json
import sys
from collections.abc import Sequence

from localfusion.domains import ANYWHERE
from localfusion.errors import WebError
from localfusion.search.fetcher import Fetcher, Limits
from localfusion.search.guard import Guard
from localfusion.search.spacing import HostSpacing
from tests.hostile_addresses import HOSTILE
from tests.reading import read_in_thread
from tests.web_server import page, redirect, serve

IPV4, IPV6 = "93.184.216.34", "2606:2800:220:1::1"
HOSTS = {
    "four.example": [IPV4],
    "six.example": [IPV6],
    "both.example": [IPV6, IPV4],
    "inside.example": ["127.0.0.1"],
    "inside-six.example": ["::1"],
    "mixed.example": [IPV4, "127.0.0.1"],
    "mapped.example": [IPV4, "::ffff:127.0.0.1"],
}


async def hosts(host: str, port: int) -> Sequence[str]:
    del port
    if host not in HOSTS:
        raise OSError("no such name")
    return HOSTS[host]


async def outcome(fetcher: Fetcher, url: str) -> str:
    try:
        return (await fetcher.fetch(url, ANYWHERE)).page.text
    except WebError as error:
        return f"refused: {error.message}"


async def outcomes() -> dict[str, object]:
    """What every address comes to, asked for itself and behind a redirect, and how many came to loopback."""
    fetcher = Fetcher(Guard(resolver=hosts), limits=Limits(connect_s=2), spacing=HostSpacing(0), read=read_in_thread)
    answers = {"/": page("open")}
    async with (
        serve({"/": page("secret")}, host="127.0.0.1", port=80) as inside,
        serve({"/": page("secret")}, host="::1", port=80) as inside_six,
        serve(answers, host=IPV4, port=80),
        serve(answers, host=IPV6, port=80),
    ):
        targets = [url.format(port=80) for url in HOSTILE] + [f"http://{name}/" for name in HOSTS]
        targets += [f"http://{IPV4}/", "http://1572395042/", f"http://[{IPV6}]/", f"http://[::ffff:{IPV4}]/"]
        answers |= {f"/{index}": redirect(url) for index, url in enumerate(targets)}
        told = {
            "asked": {url: await outcome(fetcher, url) for url in targets},
            "redirected": {
                url: await outcome(fetcher, f"http://both.example/{index}") for index, url in enumerate(targets)
            },
            "connections_inside": inside.connections + inside_six.connections,
        }
    await fetcher.close()
    return told


if __name__ == "__main__":
    json.dump(asyncio.run(outcomes()), sys.stdout)
