"""Pages read in a thread of the tests' own process: what is tested there is who asks for them."""

import asyncio

from localfusion.search.page_reader import read_page
from localfusion.search.read_page import ReadPage


async def read_in_thread(content: bytes, *, media_type: str, charset: str | None, url: str) -> ReadPage:
    """`read_page` in a thread."""
    return await asyncio.to_thread(read_page, content, media_type=media_type, charset=charset, url=url)
