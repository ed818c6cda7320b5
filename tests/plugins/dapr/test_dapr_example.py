"""examples/dapr_service as it stands, in the environment that `dapr run` makes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import anyio
import httpx
import pytest
from anyio import to_thread

from aether_bg import Aether, JobStatus
from aether_bg.testing.sidecar import DaprRuntime

pytestmark = [pytest.mark.dapr, pytest.mark.anyio]
APP = Path(__file__).parents[3] / "examples" / "dapr_service" / "app.py"


async def test_the_service_runs_as_it_stands(dapr: DaprRuntime, tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, str(APP)],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(APP.parents[2])},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as service:
        try:
            await to_thread.run_sync(dapr.sidecar.wait_healthy)
            async with Aether(tmp_path / "jobs.db", scheduler="timer").client() as client:
                mail = {"to": "a@example.org", "subject": "hello"}
                job = await client.wait(await client.enqueue("SendEmail", payload=mail), 15)
                assert job.status is JobStatus.COMPLETED
                report = await client.store.get_by_job_name("Report")
                assert report is not None
                with anyio.fail_after(5):
                    while (report := await client.store.get_by_job_name("Report")) and report.armed_seq != report.seq:
                        await anyio.sleep(0.05)
        finally:
            service.terminate()
            output, errors = await to_thread.run_sync(service.communicate)
    assert service.returncode == 0, errors
    assert output == "to a@example.org: hello\n"


async def test_the_http_service_runs_as_it_stands(tmp_path: Path, need_dapr: None) -> None:
    async with DaprRuntime(app_protocol="http", app_token="sesame") as dapr:
        port = str(dapr.sidecar.app_port)
        command = [sys.executable, "-m", "uvicorn", "--app-dir", str(APP.parent), "http_app:api", "--port", port]
        with subprocess.Popen(
            command,
            cwd=tmp_path,
            env=os.environ | dapr.env | {"PYTHONPATH": str(APP.parents[2])},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as service:
            try:
                await to_thread.run_sync(dapr.sidecar.wait_healthy)
                async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as http:
                    assert (await http.post("/orders/7")).status_code == 200
                    async with Aether(tmp_path / "shop.db", scheduler="timer").client() as client:
                        assert (await client.wait("ship-7", 15)).status is JobStatus.COMPLETED
                    assert (await http.get("/jobs")).json() == {"ok": True, "problems": {}}
            finally:
                service.terminate()
                output, errors = await to_thread.run_sync(service.communicate)
        assert "shipped 7\n" in output, errors


def test_the_files_for_several_apps_agree() -> None:
    """The YAML of the guide is the YAML of the example, but for comments."""
    guide = (APP.parents[2] / "docs" / "how-to" / "dapr.md").read_text("utf-8")
    shown = guide.split("```yaml\n")[1].split("```")[0]
    lines = [line.partition("  #")[0].rstrip() for line in shown.splitlines()]
    assert lines == (APP.parent / "dapr.yaml").read_text("utf-8").splitlines()
