"""The rules for jobs: pure functions from a row to a change, without I/O, clock or hooks. Private.

`changes`, `transitions`, `commands`, `adjustments`: a row and a moment make a change · `results`, `decisions`: how an
attempt ended · `recurrence`: due instants · `uniqueness`: names · `ids` · `settings`, `validation`: what users pass
"""
