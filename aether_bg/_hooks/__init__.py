"""Hooks: `plugins` checks and registers them, `calls` is the one place that calls them. Private."""
