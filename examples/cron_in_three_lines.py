"""Cron in three lines and a function: watch the free disk space every five seconds, until Ctrl-C.

python examples/cron_in_three_lines.py
"""

import shutil

from aether_bg import Aether

app = Aether("cron.db")


@app.handler("DiskSpace", schedule="*/5 * * * * *")
def disk_space() -> None:
    print(f"{shutil.disk_usage('.').free / 1e9:.1f} GB free", flush=True)


app.run()
