"""The process that does the work: SHA-256 of files, recorded in a table. Start as many as you like.

python examples/worker.py          # until Ctrl-C
python examples/producer.py README.md LICENSE
"""

import hashlib

from shared_jobs import DATABASE, FINGERPRINT, File

from aether_bg import Aether, JobContext, UnitOfWork

app = Aether(DATABASE)

TABLE = "CREATE TABLE IF NOT EXISTS fingerprints (path TEXT PRIMARY KEY, sha256 TEXT NOT NULL, size INTEGER NOT NULL)"


@app.handler(FINGERPRINT.name, retries=2)
def fingerprint(file: File, ctx: JobContext, work: UnitOfWork) -> None:
    with file.path.open("rb") as data:
        digest = hashlib.file_digest(data, "sha256").hexdigest()
    work.execute(TABLE)
    work.execute(
        "INSERT OR REPLACE INTO fingerprints VALUES (?, ?, ?)", [str(file.path), digest, file.path.stat().st_size]
    )
    ctx.log.info("fingerprinted")


if __name__ == "__main__":
    app.run()
