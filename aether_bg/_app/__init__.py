"""What users hold: `Aether`, its verbs, its start and stop. Private; `aether_bg` exports what is public.

`app` registration and settings · `verbs` as documented and typed · `enqueue`, `jobs`, `rows` what they do · `view` the
queries · `lifecycle` start and stop · `blocking` plain functions, `crossing` their way to the loop · `signals` for
`run` · `operator` for the command line
"""
