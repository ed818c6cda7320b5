"""The kernel: what a job is and what may happen to it. Private; `aether_bg` exports what is public.

`app` the service users hold · `options` its settings · `plugins`, `calls` hooks · `handlers`, `payloads`,
`dependencies` the user's code · `jobs`, `work`, `view` the verbs · `states`, `occurrences` the pure state machine ·
`engine`, `attempts`, `gather`, `owners`, `outbox`, `events`, `tasks` what runs · `lifecycle`, `blocking` start and stop
"""
