"""A store on LMDB: `Aether(LMDBStore("jobs.lmdb"))`. README.md says when to use it, and what it does not do.

`store` the hooks · `writing`, `reading` what they do in one transaction · `rows` that transaction · `layout` how rows
and index are stored · `writer` group commit · `owners` who is alive · `opening` the environment
"""

from .store import LMDBStore

__all__ = ["LMDBStore"]
