"""The command line, `aether-bg`: schedules previewed, jobs looked at and acted upon, a database checked.

    aether-bg next "30 2 * * *" --timezone Europe/Berlin
    aether-bg list jobs.db --status failed
    aether-bg explain jobs.db send-email-order-123

`command` the group and its errors · `output` tables, JSON, escapes · `database` the file, read only · `processes` who
lives · `session` an operator's writes · `upcoming`, `look`, `change`, `purge`, `check`, `plugins` the commands

Exit codes: 0 done, or yes · 1 no, or something is wrong · 2 the command itself is wrong. Errors are one line on stderr.
Nothing imports this package but the console script.
"""

from __future__ import annotations

__all__ = ["main"]


def main() -> None:
    """The console script."""
    from aether_bg.cli.command import cli

    cli(prog_name="aether-bg")
