"""The group of all commands. An error is one line on stderr, and an exit code."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

import click

from aether_bg import __version__
from aether_bg.cli.app_commands import next_, plugins
from aether_bg.cli.prune_command import prune
from aether_bg.cli.read_commands import explain_, history, list_, show
from aether_bg.cli.state_commands import check, stats
from aether_bg.cli.store_commands import backup, copy_, migrate
from aether_bg.cli.web_command import web
from aether_bg.cli.write_commands import VERBS, purge
from aether_bg.errors import AetherError, InputError, brief
from aether_bg.explain import plain

NO, WRONG = 1, 2
_HELP: Any = getattr(click.exceptions, "NoArgsIsHelpError", ())  # click 8.2


class Commands(click.Group):
    """A click group whose errors are one line each, without a traceback."""

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        **extra: Any,
    ) -> Any:
        if not standalone_mode:
            return super().main(args, prog_name, complete_var, standalone_mode=False, **extra)
        _stand_in_for_closed_streams()
        _never_fail_to_encode()
        try:
            code = super().main(args, prog_name, complete_var, standalone_mode=False, **extra)
        except _HELP as help_:
            help_.show()
            sys.exit(WRONG)
        except click.UsageError as error:
            path = error.ctx.command_path if error.ctx else "aether-bg"
            said = error.format_message().rstrip(".")
            _fail(path, f"{said}{'' if said.endswith('?') else '.'} See {path} --help.", WRONG)
        except click.Abort:
            _fail("aether-bg", "Stopped.", NO)
        except click.ClickException as error:
            _fail("aether-bg", error.format_message(), NO)
        except AetherError as error:
            _fail("aether-bg", str(error), WRONG if isinstance(error, InputError) else NO)
        except OSError as error:  # of the output, or of where it runs: a store's own is a StoreError
            _fail("aether-bg", f"the operating system refused it ({brief(error)}).", NO)
        except Exception as error:  # unforeseen: still one line
            _fail("aether-bg", f"it cannot go on ({brief(error)}). Run `aether-bg check` on the file.", NO)
        sys.exit(code if isinstance(code, int) else 0)


def _fail(who: str, what: str, code: int) -> NoReturn:
    click.echo(f"{who}: {plain(' '.join(what[:4000].split()))}", err=True)
    sys.exit(code)


def _stand_in_for_closed_streams() -> None:
    """Where it was started with one closed (`>&-`), Python has None, and the next file that opens gets its number."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115


def _never_fail_to_encode() -> None:
    """A terminal that cannot show a character shows its escape."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="aether-bg")
def cli() -> None:
    """Look at aether_bg jobs, act on them, and preview schedules.

    DB is the database of an app, a file or a URL, JOB the id or the name of a job. All commands are safe on a database
    in use, and never create one, except the target of a copy. Every command except web has --json. Exit codes: 0 done
    or yes, 1 no or wrong, 2 usage.
    """


LOOK, MOVE = (next_, explain_, list_, show, history, stats, check, plugins, web), (purge, prune, backup, copy_, migrate)
for command in (*LOOK, *VERBS, *MOVE):
    cli.add_command(command)
