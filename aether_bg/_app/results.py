"""`app.result`: waits for a job and returns what its handler returned (docs/protocol.md, K1)."""

from __future__ import annotations

from datetime import timedelta
from typing import Any
from uuid import UUID

from aether_bg._app.commands import Commands
from aether_bg._kernel.kernel import Kernel
from aether_bg.errors import JobFailed, NoResult, shown
from aether_bg.explain import first_line
from aether_bg.model import JobInfo, JobStatus


async def result_of(
    kernel: Kernel, commands: Commands, job: UUID | str | JobInfo, timeout: float | timedelta | None
) -> Any:
    row = await commands.wait(job.id if isinstance(job, JobInfo) else job, timeout)
    what = f"the result of job {shown(row.job_name)}"
    if row.status is not JobStatus.COMPLETED:
        why = f": {first_line(row.last_error)}" if row.last_error else ""
        raise JobFailed(row.last_error, what, f"it is {row.status.name}{why}", "`retry` runs it again.")
    run = await kernel.kept.run(row)
    if run is not None and run.has_result:
        return kernel.kept.value(row, run)
    if run is not None and run.error:
        raise NoResult(what, first_line(run.error), "The job has completed, and its work is done.")
    remedy = f"Register its handler with keep_result: @app.handler({row.handler_name!r}, keep_result=True)."
    raise NoResult(what, "none was kept", remedy)
