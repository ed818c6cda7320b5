"""examples/several_machines as it stands: three replicas on one store, by the timer and under a real Dapr (row 22)."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import psycopg
import pytest

from aether_bg import Aether
from aether_bg.testing.sidecar import DaprRuntime, require_dapr

EXAMPLE = Path(__file__).parents[3] / "examples" / "several_machines"
ORDERS = 60


@pytest.fixture
def replica(url: str, tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts one; killed at the end if it still runs."""
    processes: list[subprocess.Popen[str]] = []

    def start(**env: str) -> subprocess.Popen[str]:
        ours = {name: value for name, value in os.environ.items() if not name.startswith(("DAPR_", "APP_"))}
        log = (tmp_path / f"replica-{len(processes)}.log").open("w")
        process = subprocess.Popen(
            [sys.executable, str(EXAMPLE / "shop.py")], cwd=tmp_path, stdout=log, stderr=log, text=True,
            env={**ours, "DATABASE_URL": url, "PYTHONPATH": str(EXAMPLE.parents[1]), **env},
        )  # fmt: skip
        log.close()
        processes.append(process)
        return process

    yield start
    for process in processes:
        process.kill()
        process.wait()


def sql(url: str, query: str) -> list[tuple[Any, ...]]:
    with psycopg.connect(url, autocommit=True) as conn:
        return conn.execute(query.encode()).fetchall()


def until(condition: Callable[[], Any], what: str, within: float = 60.0) -> Any:
    deadline = time.monotonic() + within
    while not (found := condition()):
        assert time.monotonic() < deadline, f"{what} did not come within {within:g} s"
        time.sleep(0.05)
    return found


def owners(url: str) -> int:
    try:
        return int(sql(url, "SELECT count(*) FROM aether_bg.owners")[0][0])
    except psycopg.Error:
        return 0


def enqueue(url: str, numbers: range) -> None:
    with Aether(url, scheduler="timer").blocking(client=True) as jobs, psycopg.connect(url) as conn:
        for number in numbers:
            conn.execute("INSERT INTO orders VALUES (%s, 'ada')", [number])
            jobs.enqueue("Ship", f"ship-{number}", {"number": number, "to": "ada"}, connection=conn)
        conn.commit()


def shipped(url: str) -> int:
    return int(sql(url, "SELECT count(*) FROM shipments")[0][0])


def check(url: str, count: int) -> dict[str, int]:
    """Each order is shipped once, by rows and by history; by whom."""
    ended = "SELECT count(*) FROM aether_bg.jobs WHERE handler_name = 'Ship' AND status = 2"
    until(lambda: sql(url, ended) == [(count,)], "the end of all")
    assert shipped(url) == count
    runs = "SELECT count(*), count(DISTINCT job_id) FROM aether_bg.runs WHERE outcome = 'completed'"
    assert sql(url, runs) == [(count, count)]
    by = sql(url, "SELECT shipped_by, count(*) FROM shipments GROUP BY 1")
    return dict(by)


def test_three_replicas_by_the_timer(url: str, replica: Callable[..., subprocess.Popen[str]]) -> None:
    replicas = [replica() for _ in range(3)]
    until(lambda: owners(url) == 3, "three replicas")
    enqueue(url, range(ORDERS))
    until(lambda: shipped(url) > 5, "some shipments")
    replicas[0].kill()
    enqueue(url, range(ORDERS, 2 * ORDERS))
    check(url, 2 * ORDERS)
    assert sql(url, "SELECT count(*) FROM aether_bg.jobs WHERE handler_name = 'Report'") == [(1,)]
    for process in replicas[1:]:
        process.terminate()
        assert process.wait(40) == 0
    until(lambda: owners(url) <= 1, "the end of the replicas")


@pytest.mark.dapr
@pytest.mark.skipif(find_spec("grpc") is None, reason="needs the extra: pip install 'aether-bg[dapr]'")
def test_three_replicas_under_dapr(url: str, replica: Callable[..., subprocess.Popen[str]]) -> None:
    """A sidecar for each, one scheduler, which is killed and comes back while orders are taken."""
    require_dapr()
    with ExitStack() as stack:
        dapr = stack.enter_context(DaprRuntime("shop", app_token="sesame"))
        sidecars = [dapr.sidecar, dapr.replica(), dapr.replica()]
        for sidecar in sidecars:
            replica(**sidecar.env)
        until(lambda: owners(url) == 3, "three replicas")
        for sidecar in sidecars:
            sidecar.wait_healthy(60)
        enqueue(url, range(ORDERS))
        until(lambda: shipped(url) == ORDERS, "the shipments")
        dapr.scheduler.kill()
        enqueue(url, range(ORDERS, 2 * ORDERS))
        dapr.scheduler.start()
        until(lambda: shipped(url) == 2 * ORDERS, "the shipments after the scheduler was killed", 110)
        check(url, 2 * ORDERS)
        armed = "SELECT count(*) FROM aether_bg.jobs WHERE handler_name = 'Report' AND armed_seq = seq"
        until(lambda: sql(url, armed) == [(1,)], "the report to be armed")


def test_manifests_say_what_the_app_needs() -> None:
    yaml = pytest.importorskip("yaml")
    texts = {path.name: path.read_text("utf-8") for path in EXAMPLE.rglob("*.yaml")}
    assert set(texts) == {"compose.yaml", "deployment.yaml", "migrate.yaml", "secret.yaml"}
    documents = {name: list(yaml.safe_load_all(text)) for name, text in texts.items()}
    (deployment,) = documents["deployment.yaml"]
    pod = deployment["spec"]["template"]
    assert (deployment["spec"]["replicas"], pod["spec"]["terminationGracePeriodSeconds"]) == (3, 30)
    assert pod["metadata"]["annotations"]["dapr.io/app-token-secret"] == documents["secret.yaml"][1]["metadata"]["name"]
    assert (
        pod["spec"]["containers"][0]["envFrom"][0]["secretRef"]["name"]
        == documents["secret.yaml"][0]["metadata"]["name"]
    )
    assert "DATABASE_URL" in documents["secret.yaml"][0]["stringData"]
    assert documents["compose.yaml"][0]["services"]["worker"]["deploy"]["replicas"] == 3
