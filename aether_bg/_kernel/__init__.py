"""The running kernel, from due jobs to committed outcomes. Private; `aether_bg` exports what is public.

`kernel` builds the parts. Claim to commit: `alarm`, `claimer`, `triggers` · `executor`, `attempt`, `decider` ·
`completer` · `journal`, `batcher`, `arming`. Owners: `heartbeat`, `rescuer`, `standstill`, `monitor`, `unserved`.
Around them: `supervisor`, `problems`, `observers`, `clocks`, `blocked`, `health`. Shared by all: `shared`, `slots`,
`schedules`, `timekeeper`, `timings`, `tasks`. Above: `_app`. Below: `_handlers`, `_hooks`, `_rules`.
"""
