"""The running kernel, from due jobs to committed outcomes. Private; `aether_bg` exports what is public.

`kernel` builds the parts. Claim to commit: `alarm`, `claimer`, `triggers` · `executor`, `attempt`, `decider` ·
`completer` · `journal`, `batcher`, `arming`. Owners: `heartbeat`, `rescuer`, `standstill`, `monitor`, `unserved`.
Beside them: `supervisor`, `problems`, `observers`, `clocks`, `blocked`, `health`. What all of them share: `shared`,
`slots`, `schedules`, `timekeeper`, `timings`, `tasks`. Above: `_app`. Below: `_handlers`, `_hooks`, `_rules`.
"""
