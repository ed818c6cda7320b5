"""Scheduled and background jobs in your own process: crash-safe, small, every layer a plugin."""

__version__ = "0.1.0"
