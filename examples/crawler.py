"""Crawl a small site: four requests at a time over all processes, and a report when every page is there.

    python examples/crawler.py

It serves the site itself. Each page's links become further jobs; `after=` makes the report wait for them, and
`ctx.parents()` gives it what they returned. Run it in several terminals at once: together they never exceed the limit.
"""

from __future__ import annotations

import threading
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.request import urlopen

import anyio
import attrs

from aether_bg import Aether, JobContext

PAGES = 24
app = Aether("crawler.db")


@attrs.define
class Page:
    path: str
    bytes: int
    links: list[str]


@app.handler("Fetch", concurrency=4, retries=3, timeout=30, keep_result=True)
def fetch(url: str) -> Page:
    """Plain code runs in a thread; `concurrency` counts in the whole store."""
    with urlopen(url, timeout=10) as answer:
        body = answer.read()
    site, _, path = url.rpartition("/")
    return Page(f"/{path}", len(body), [f"{site}{link}" for link in body.decode().split()])


@app.handler("Follow")
async def follow(ctx: JobContext) -> None:
    """The first page is there: fetch its links, and let the report wait for all of them."""
    (front,) = await ctx.parents()
    pages = [await app.enqueue(fetch, payload=url) for url in front.result.links]
    await app.enqueue(
        report, "report", after=[front.id, *pages], unique_for=timedelta(0)
    )  # the name is free afterwards


@app.handler("Report", keep_result=True)
async def report(ctx: JobContext) -> str:
    pages: list[Page] = [parent.result for parent in await ctx.parents()]
    return f"{len(pages)} pages, {sum(page.bytes for page in pages)} bytes"


class Site(BaseHTTPRequestHandler):
    """The front page links to all others."""

    def do_GET(self) -> None:
        links = [f"/page{number}" for number in range(PAGES)] if self.path == "/" else []
        body = "\n".join(links or ["/"]).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None: ...


async def main() -> None:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Site)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    async with app:
        front = await app.enqueue(fetch, payload=f"http://127.0.0.1:{server.server_port}/")
        following = await app.enqueue(follow, after=front)
        await app.wait(following, timeout=30)
        print(await app.result("report", timeout=30))
    server.shutdown()
    server.server_close()


if __name__ == "__main__":
    anyio.run(main)
