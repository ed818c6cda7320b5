"""What users work with: `Aether`, its verbs, its start and stop. Private; `aether_bg` exports what is public.

`aether` what users call before the start · `registration` what that collects · `verbs`, `client` the verbs, documented
and typed · `admission` makes a job from arguments · `enqueue`, `commands` what the verbs do · `store_view` the queries
· `declarations` jobs declared in code · `session` start and stop · `blocking` plain functions, `crossing` their way to
the loop · `blocks` errors of misused blocks · `signals` for `run` · `operator` for the command line and the page
"""
