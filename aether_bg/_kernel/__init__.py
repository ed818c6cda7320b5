"""The running kernel, from due rows to committed outcomes. Private; `aether_bg` exports what is public.

`engine` the doors that schedulers knock at · `attempts`, `attempt`, `verdicts`, `outcomes` one attempt, claim to
commit · `owners` who is alive · `clocks` clocks that are set back, zones that change · `outbox` what is to be armed ·
`gather` writes that share a transaction · `events` observers · `core`, `tasks` what all of them share. Above: `_app`.
Below: `_handlers`, `_hooks`, `_rules`.
"""
