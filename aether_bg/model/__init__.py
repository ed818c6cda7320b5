"""The values that cross hooks: attrs classes, frozen, keyword-only if they are long. No I/O here.

Each value has its own rule, so that stores and schedulers need not repeat it: `JobInfo.claimable`, `Claim.choose`,
`Change.applied_to`, `Query.select`, `Purge.select`.

`job`: a job and its history · `after`: parents and children · `writes`, `claims`, `queries`, `summaries`: what stores
are asked · `context`: an attempt, for its handler · `attempts`: handlers, and what follows a failure · `events`: what
observers receive · `inspecting`: processes and findings · `about`: which job's value a codec gets
"""

from aether_bg.model.about import About
from aether_bg.model.after import Parent, Parents, Settled, placed, relieved
from aether_bg.model.attempts import (
    Backoff,
    Decision,
    Failure,
    GiveUp,
    GiveUpNow,
    HandlerInfo,
    Invocation,
    Postpone,
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
from aether_bg.model.context import CancelReason, JobContext
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
    Completion,
    Definition,
    Hold,
    Insert,
    Insertion,
    Note,
    ParamStyle,
    Statement,
    Transaction,
    Update,
    Write,
)

__all__ = [
    "KEEP",
    "About",
    "Alive",
    "Altered",
    "AppStarted",
    "AppStopped",
    "Backoff",
    "Call",
    "CancelReason",
    "Change",
    "Claim",
    "Claimed",
    "Completion",
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
    "Hold",
    "Insert",
    "Insertion",
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
    "ParamStyle",
    "Parent",
    "Parents",
    "Postpone",
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
    "Settled",
    "Snooze",
    "Started",
    "Statement",
    "Stats",
    "TimedOut",
    "Transaction",
    "Unreadable",
    "Update",
    "Write",
    "begun_run",
    "placed",
    "relieved",
]
