"""The user's code: `handlers` compiled, `payloads` typed, `dependencies` injected by type, `work` the unit of work.
Private."""
