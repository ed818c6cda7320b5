"""The values that cross hooks: attrs classes, frozen, keyword-only where they are long. No I/O here.

Each value carries its own rule, so that a store or scheduler need not repeat it: `JobInfo.claimable`, `Claim.choose`,
`Change.applied_to`, `Query.select`, `Purge.select`.

`job`: a job and its history · `writes`, `claims`, `queries`, `summaries`: what stores are asked · `attempts`: how a
handler is called and what follows · `events`: what observers are told · `inspecting`: processes and findings
"""

from aether_bg.model.attempts import (
    Backoff,
    Decision,
    Failure,
    GiveUp,
    GiveUpNow,
    HandlerInfo,
    Invocation,
    JobContext,
    Raised,
    RetryAt,
    Snooze,
    TimedOut,
)
from aether_bg.model.claims import (
    Alive,
    Claim,
    Claimed,
    Fired,
    Heartbeat,
    Owner,
    begun_run,
)
from aether_bg.model.events import (
    Altered,
    AppStarted,
    AppStopped,
    Ended,
    Enqueued,
    Event,
    Missed,
    Problem,
    Recovered,
    Started,
)
from aether_bg.model.inspecting import Finding, Process, Report
from aether_bg.model.job import (
    JobInfo,
    JobRun,
    JobStatus,
    JobType,
    Misfire,
    RunOutcome,
    Unreadable,
)
from aether_bg.model.progress import Progress
from aether_bg.model.queries import (
    Purge,
    Query,
    Stats,
)
from aether_bg.model.summaries import FailureGroup, Failures, Ran, Runs
from aether_bg.model.writes import (
    KEEP,
    Call,
    Change,
    Definition,
    Insert,
    Note,
    Transaction,
    Update,
    Write,
)

__all__ = [
    "KEEP",
    "Alive",
    "Altered",
    "AppStarted",
    "AppStopped",
    "Backoff",
    "Call",
    "Change",
    "Claim",
    "Claimed",
    "Decision",
    "Definition",
    "Ended",
    "Enqueued",
    "Event",
    "Failure",
    "FailureGroup",
    "Failures",
    "Finding",
    "Fired",
    "GiveUp",
    "GiveUpNow",
    "HandlerInfo",
    "Heartbeat",
    "Insert",
    "Invocation",
    "JobContext",
    "JobInfo",
    "JobRun",
    "JobStatus",
    "JobType",
    "Misfire",
    "Missed",
    "Note",
    "Owner",
    "Problem",
    "Process",
    "Progress",
    "Purge",
    "Query",
    "Raised",
    "Ran",
    "Recovered",
    "Report",
    "RetryAt",
    "RunOutcome",
    "Runs",
    "Snooze",
    "Started",
    "Stats",
    "TimedOut",
    "Transaction",
    "Unreadable",
    "Update",
    "Write",
    "begun_run",
]
