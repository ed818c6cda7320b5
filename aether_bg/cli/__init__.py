"""The command line, `aether-bg`: preview schedules, look at jobs and act on them, check a database.

    aether-bg next "30 2 * * *" --timezone Europe/Berlin
    aether-bg list jobs.db --status failed
    aether-bg explain jobs.db send-email-order-123

`app` the group of commands and its errors · `read_commands`, `write_commands`, `app_commands` · `stores` what they open
· `output` tables, JSON, escapes

Exit codes: 0 done, or yes · 1 no, or something is wrong · 2 the command itself is wrong. Errors are one line on stderr.
Only the console script imports this package.
"""

from __future__ import annotations

__all__ = ["main"]


def main() -> None:
    """The console script."""
    from aether_bg.cli.app import cli

    cli(prog_name="aether-bg")
