"""A store on LMDB: `Aether(LMDBStore("jobs.lmdb"))`. README.md says when to use it, and what it does not do.

`store` the hooks · `rows` rows and index, as one transaction sees them · `environment` LMDB itself
"""

from .store import LMDBStore

__all__ = ["LMDBStore"]
