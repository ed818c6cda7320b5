"""What a job is and what may happen to it, without I/O: `states`, `occurrences`, `names`, `ids`, `options`. Private."""
