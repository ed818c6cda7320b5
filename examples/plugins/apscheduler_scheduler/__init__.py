"""A scheduler on APScheduler 3: `Aether("jobs.db", scheduler=APScheduler("sqlite:///triggers.db"))`. See README.md."""

from .scheduler import APScheduler

__all__ = ["APScheduler"]
