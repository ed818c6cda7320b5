"""Hooks: `plugins` checks and registers them, `calls` is the only place that calls them. Private."""
