"""The page in a real browser: `nox -s web`, with Chromium installed (`apt-get install chromium`)."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
HOW = "install Chromium (apt-get install chromium), and pip install playwright axe-playwright-python uvicorn"
HERE = Path(__file__).parent
SCREENS = ("", "jobs", "failures", "recurring", "handlers", "processes", "system")
RULES = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    missing = [name for name in ("playwright", "axe_playwright_python", "uvicorn") if find_spec(name) is None]
    if BROWSER is None or missing:
        if os.environ.get("AETHER_REQUIRE_BROWSER") == "1":
            pytest.fail(f"AETHER_REQUIRE_BROWSER is set: {HOW}")
        pytest.skip(f"{', '.join(missing) or 'no browser'}: {HOW}")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        yield browser
        browser.close()


class Demo:
    """The service of demo.py, as a process that can be restarted on its port."""

    def __init__(self, folder: Path, store: str | None = None) -> None:
        self._folder, self._store = folder, store or str(folder / "demo.db")
        with socket.socket() as listening:
            listening.bind(("127.0.0.1", 0))
            self.port = listening.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.start()

    def start(self) -> None:
        environment = os.environ | {"DEMO_STORE": self._store}
        command = [sys.executable, "-m", "uvicorn", "demo:service", "--port", str(self.port), "--log-level", "error"]
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(command, cwd=HERE, env=environment, stdout=log, stderr=log)
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            try:
                urllib.request.urlopen(f"{self.url}/health/live", timeout=5).close()
                return
            except OSError:
                assert self._process.poll() is None, (self._folder / "log").read_text()
                time.sleep(0.05)
        raise AssertionError("it does not answer")

    def stop(self) -> None:
        self._process.kill()
        self._process.wait()


@pytest.fixture
def demo(tmp_path: Path, chromium: Any) -> Iterator[Demo]:
    found = Demo(tmp_path)
    yield found
    found.stop()


@pytest.fixture
def tab(chromium: Any, demo: Demo) -> Iterator[Callable[..., Any]]:
    """`tab(**options)`: a new tab on the overview. Errors on its console fail the test."""
    contexts: list[Any] = []
    said: list[str] = []

    def opened(path: str = "", **options: Any) -> Any:
        contexts.append(chromium.new_context(**options))
        page = contexts[-1].new_page()
        page.set_default_timeout(30_000)
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("console", lambda text: said.append(text.text) if "Content Security" in text.text else None)
        page.goto(f"{demo.url}/ops/jobs/{path}")
        return page

    yield opened
    for context in contexts:
        context.close()
    assert said == []


def violations(page: Any) -> list[str]:
    from axe_playwright_python.sync_playwright import Axe

    found = Axe().run(page, options={"runOnly": RULES}).response["violations"]
    return [f"{one['id']}: {one['nodes'][0]['html'][:200]}" for one in found]


@pytest.mark.timeout(300)
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_screen_is_accessible_at_both_widths(tab: Callable[..., Any], scheme: str) -> None:
    for width in (1280, 320):
        page = tab(viewport={"width": width, "height": 800}, color_scheme=scheme)
        page.get_by_role("link", name=re.compile("^newsletter:")).first.wait_for()
        job = page.get_by_role("link", name=re.compile("^newsletter:")).first.get_attribute("href")
        for path in (*SCREENS, "jobs?status=failed", job.removeprefix("./"), "nope"):
            page.goto(page.url.partition("/ops/jobs/")[0] + f"/ops/jobs/{path}")
            assert violations(page) == [], path
            wider = "document.documentElement.scrollWidth > document.documentElement.clientWidth"
            assert not page.evaluate(wider), f"{path} is wider than {width}"


@pytest.mark.timeout(300)
def test_a_stranger_finds_a_failure_its_reason_and_its_retry(tab: Callable[..., Any]) -> None:
    page = tab()
    page.get_by_role("link", name="thumbnail:4").first.click()
    page.get_by_text("ValueError: cannot resize a moving picture").first.wait_for()
    page.get_by_text("Traceback").first.click()
    page.get_by_text("Traceback (most recent call last)").first.wait_for()
    page.get_by_role("button", name="Retry: thumbnail:4").click()
    page.get_by_text("It is due again.").wait_for()


@pytest.mark.timeout(300)
def test_one_failure_is_retried_where_failures_are_grouped(tab: Callable[..., Any]) -> None:
    page = tab("failures")
    page.get_by_text("ValueError: cannot resize a moving picture").wait_for()
    page.get_by_role("button", name=re.compile("^Retry the job of ResizePicture")).click()
    page.get_by_text("It is due again.").wait_for()
    page.get_by_role("heading", name="Failures").wait_for()


@pytest.mark.timeout(300)
def test_actions(tab: Callable[..., Any]) -> None:
    page = tab("recurring")
    page.get_by_role("button", name="Pause: report:weekly").click()
    page.get_by_role("button", name="Resume: report:weekly").click()
    page.get_by_role("button", name="Run now: report:weekly").click()
    page.get_by_text("It runs as soon as it can.").wait_for()
    page.get_by_role("link", name="report:weekly").click()
    page.get_by_role("textbox", name="Schedule").fill("15 4 * * *")
    page.get_by_role("button", name="Change").click()
    page.get_by_text("It has the new schedule").wait_for()
    page.get_by_text("at 04:15 every day").first.wait_for()
    page.get_by_role("textbox", name="Schedule").fill("99 99 * * *")
    page.get_by_role("button", name="Change").click()
    page.get_by_role("heading", name="Not possible").wait_for()
    page.goto(page.url.partition("/ops/jobs/")[0] + "/ops/jobs/failures")
    page.get_by_role("button", name="Retry all…").first.click()
    page.get_by_role("button", name=re.compile(r"^Retry \d+ jobs$")).click()
    page.get_by_text(re.compile(r"\d+ jobs: due again\.")).wait_for()
    page.get_by_role("link", name="Handlers").click()
    page.get_by_role("button", name="Pause NightlyReport").click()
    page.get_by_role("button", name="Resume NightlyReport").click()
    page.get_by_role("link", name="Jobs", exact=True).last.click()
    page.get_by_role("link", name="import:warehouse").click()
    page.get_by_role("button", name="Delete…").click()
    page.get_by_role("heading", name="Delete import:warehouse?").wait_for()
    page.get_by_role("button", name="Delete", exact=True).click()
    page.get_by_text("It is cancelled.").wait_for()


@pytest.mark.timeout(300)
def test_two_tabs_act_at_once(tab: Callable[..., Any]) -> None:
    one, other = tab("jobs?name=reminder"), tab("jobs?name=reminder")
    for page in (one, other):
        page.get_by_role("link", name="reminder:7").click()
        page.get_by_role("button", name="Delete…").click()
    one.get_by_role("button", name="Delete", exact=True).click()
    one.get_by_text("It is cancelled.").wait_for()
    other.get_by_role("button", name="Delete", exact=True).click()
    other.get_by_text("cancelled").first.wait_for()  # it was so already
    for page in (one, other):
        page.get_by_role("button", name="Retry: reminder:7").wait_for()
    one.get_by_role("button", name="Retry: reminder:7").click()
    one.get_by_text("It is due again.").wait_for()
    other.get_by_role("button", name="Retry: reminder:7").click()
    other.get_by_role("heading", name="Not possible now").wait_for()


@pytest.mark.timeout(300)
def test_a_page_survives_a_restart_below_it(tab: Callable[..., Any], demo: Demo) -> None:
    page = tab("jobs")
    page.get_by_role("link", name="welcome:001").wait_for()
    demo.stop()
    page.get_by_text("The service does not answer.").wait_for()
    assert page.get_by_role("link", name="welcome:001").is_visible()
    demo.start()
    page.get_by_text("The service does not answer.").wait_for(state="hidden")


@pytest.mark.timeout(300)
def test_what_happens_appears_without_a_reload(tab: Callable[..., Any]) -> None:
    page, other = tab("jobs?status=cancelled"), tab("jobs?name=reminder")
    page.get_by_role("link", name="obsolete").wait_for()
    other.get_by_role("link", name="reminder:7").click()
    other.get_by_role("button", name="Delete…").click()
    other.get_by_role("button", name="Delete", exact=True).click()
    page.get_by_role("link", name="reminder:7").wait_for()


@pytest.mark.timeout(300)
def test_it_asks_again_while_it_is_seen_and_leaves_what_is_open(tab: Callable[..., Any]) -> None:
    page = tab("jobs?status=failed&name=thumb")
    page.get_by_role("link", name="thumbnail:4").click()
    page.get_by_text("Traceback").first.click()
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.evaluate("Object.defineProperty(document, 'hidden', {value: true, configurable: true})")
    page.evaluate("htmx.trigger('#live', 'refresh')")
    assert asked == []
    page.evaluate("Object.defineProperty(document, 'hidden', {value: false, configurable: true})")
    with page.expect_response(re.compile("/jobs/jobs/")):
        page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")
    page.get_by_text("Traceback (most recent call last)").first.wait_for()


@pytest.mark.timeout(300)
def test_without_javascript(tab: Callable[..., Any]) -> None:
    page = tab(java_script_enabled=False)
    for name in ("Jobs", "Failures", "Recurring", "Handlers", "Processes", "System"):
        page.get_by_role("navigation", name="Screens").get_by_role("link", name=name, exact=True).click()
        page.get_by_role("heading", name=name, level=1).wait_for()
    page.goto(page.url.replace("system", "jobs"))
    page.get_by_label("Status").select_option("failed")
    page.get_by_role("button", name="Show").click()
    page.get_by_role("button", name="Retry: thumbnail:4").click()
    page.get_by_text("It is due again.").wait_for()


@pytest.mark.timeout(300)
def test_by_keyboard_alone(tab: Callable[..., Any]) -> None:
    page = tab("jobs?status=failed&name=thumb")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to content"
    page.keyboard.press("Enter")
    for _ in range(30):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.getAttribute('aria-label')") == "Retry: thumbnail:4":
            break
    outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
    assert outline == "solid"
    page.keyboard.press("Enter")
    page.get_by_text("It is due again.").wait_for()


@pytest.mark.timeout(300)
def test_over_postgresql(chromium: Any, aether_postgres: Any, tmp_path: Path) -> None:
    with aether_postgres.database() as url:
        demo = Demo(tmp_path, url)
        try:
            page = chromium.new_page()
            page.set_default_timeout(30_000)
            page.goto(f"{demo.url}/ops/jobs/")
            page.get_by_role("link", name="thumbnail:4").first.click()
            page.get_by_text("ValueError: cannot resize a moving picture").first.wait_for()
            page.get_by_role("button", name="Retry: thumbnail:4").click()
            page.get_by_text("It is due again.").wait_for()
            page.goto(f"{demo.url}/ops/jobs/jobs?name=report:orders")
            page.get_by_role("link", name="report:orders").click()
            page.get_by_role("heading", name="Runs after 3 jobs, waits for 2").wait_for()
            page.get_by_role("link", name="import:warehouse").click()
            page.get_by_role("heading", name="Jobs that run after it").wait_for()
            page.close()
        finally:
            demo.stop()


@pytest.mark.timeout(300)
def test_the_command_line_serves_one_browser(chromium: Any, demo: Demo, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "aether_bg.cli", "web", str(tmp_path / "demo.db")]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ | {"PYTHONUNBUFFERED": "1"})
    try:
        assert process.stdout is not None
        link = process.stdout.readline().split()[-1]
        page = chromium.new_context().new_page()
        page.set_default_timeout(30_000)
        page.goto(link)
        page.get_by_role("heading", name="Overview").wait_for()
        assert "token" not in page.url
        page.goto(page.url + "jobs?status=failed&name=thumb")
        page.get_by_role("button", name="Retry: thumbnail:4").click()
        page.get_by_text("It is due again.").wait_for()
        stranger = chromium.new_context().new_page()
        assert stranger.goto(link).status == 403
    finally:
        process.kill()
        process.communicate()
