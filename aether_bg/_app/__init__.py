"""What users hold: `Aether`, its verbs, its start and stop. Private; `aether_bg` exports what is public.

`aether` what users call before the start · `registration` what that collects · `client` the verbs, documented and
typed · `admission` arguments made into a job · `enqueue`, `commands` what the verbs do · `store_view` the queries ·
`declarations` jobs declared in code · `session` start and stop · `blocking` plain functions, `crossing` their way to
the loop · `blocks` errors of misused blocks · `signals` for `run` · `operator` for the command line
"""
