"""What a process does beside its jobs, so that all of them get on. Private.

`upkeep` builds the parts. Owners: `heartbeat` shows that this process is alive, `standstill` decides who is dead,
`rescuer` takes back their jobs. Warnings: `monitor`, about the due jobs that `waiting` finds, and `blocked`, about the
event loop; `health` answers when it is asked. Rows: `clocks` adjusts them when a clock is set, `retention` deletes old
ones.

It uses the kernel, which knows nothing of it.
"""
