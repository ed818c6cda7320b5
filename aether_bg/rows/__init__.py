"""A store on an engine of your own: you say how to look up and change one row, and the rules are here.

    class MyRows(Rows):            # one transaction of your engine: some 20 short methods
        def job(self, job_id): …

    class MyStore(RowStore):       # opens and closes it, and carries out work in a transaction
        async def write(self, work):
            with engine.transaction() as transaction:
                return work(MyRows(transaction))

`Rows` the rules of writing, and queries that read all rows · `RowStore` the hooks over them · `pack`, `unpack` rows as
text · `disk_trouble` an `OSError` as the kernel wants it · `sync_folder` makes new files survive a power loss

`MemoryStore` uses them with dicts, `examples/plugins/lmdb_store` with a database that several processes share.
"""

from aether_bg.rows.files import disk_trouble, pack, sync_folder, unpack
from aether_bg.rows.rules import Rows
from aether_bg.rows.store import RowStore

__all__ = ["RowStore", "Rows", "disk_trouble", "pack", "sync_folder", "unpack"]
