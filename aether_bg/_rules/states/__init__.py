"""What may happen to a job: every move between states as a pure function from a row to a `Change`.

No I/O, no clock, no hooks: who calls decides when and commits the result. DESIGN section 3, PROTOCOL C, R and U.
"""

from aether_bg._rules.states.adjusting import adjust
from aether_bg._rules.states.endings import (
    LEAST_CRASHES,
    Completed,
    Ending,
    Failed,
    Lost,
    Released,
    Repeated,
    Snoozed,
    abandon,
    doubtful,
    finish,
    misfired,
)
from aether_bg._rules.states.moves import (
    armed,
    cancel,
    pause,
    redefine,
    release_name,
    resume,
    retry,
    settle,
    trigger,
    update,
)

__all__ = [
    "LEAST_CRASHES", "Completed", "Ending", "Failed", "Lost", "Released", "Repeated", "Snoozed", "abandon", "adjust",
    "armed", "cancel", "doubtful", "finish", "misfired", "pause", "redefine", "release_name", "resume", "retry",
    "settle", "trigger", "update",
]  # fmt: skip
