"""The way of a job, from due to committed outcome. Private; `aether_bg` exports what is public.

`kernel` builds the parts. When: `alarm`. Claim: `claimer`, `turns`, `triggers`, `at_once`. Run: `executor`, `attempt`,
`decider`. Outcome: `completer`. Commit: `journal`, `commits`, `batcher`, then `arming`. Called by handlers: `notes`
(progress, checkpoints), `inside` (the outcome in its own transaction). Shared by all: `shared`, `slots`, `schedules`,
`identity`, `timekeeper`, `timings`, `tasks`. Loops and errors: `supervisor`, `problems`, `observers`.

Above: `_upkeep`, what a process does beside its jobs; `_app`. Below: `_handlers`, `_hooks`, `_rules`.
"""
