"""The user's code: `handlers` compiled, `payloads` typed, `dependencies` by type, `work` the unit of work. Private."""
