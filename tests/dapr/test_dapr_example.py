"""examples/dapr_service as it stands, in the environment that `dapr run` makes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import anyio
import pytest
from anyio import to_thread

from aether_bg import Aether, JobStatus
from aether_bg.testing.sidecar import DaprRuntime

pytestmark = [pytest.mark.dapr, pytest.mark.anyio]
APP = Path(__file__).parents[2] / "examples" / "dapr_service" / "app.py"


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
