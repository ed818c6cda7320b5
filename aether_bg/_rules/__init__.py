"""What a job is and what may happen to it, without I/O, clock or hooks. Private.

`changes`, `transitions`, `commands`, `adjustments` from a row to a change ·
`results`, `decisions` how an attempt ended ·
`recurrence` due instants · `uniqueness` names · `ids` · `settings`, `validation` what users pass
"""
