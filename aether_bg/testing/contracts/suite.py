"""Rules, their suites, and what a run found. Independent of stores and schedulers.

A check is a plain async function with one parameter, its world. `Suite.rule` names the rule for which it is evidence;
`expect` says what was seen when it is broken. A `Contract` is a suite bound to an author's factory.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final, Generic, TypeVar

import anyio
import attrs

from aether_bg.errors import InvalidOption, shown

W = TypeVar("W")
Check = Callable[[W], Awaitable[None]]

BACKENDS: Final = tuple(name for name in ("asyncio", "trio") if find_spec(name) is not None)
"""The event loops that are installed: trio may be missing."""


class Broken(AssertionError):
    """A rule is broken. The message has the rule's number, the rule, its reason, and what was seen."""


class _Seen(Exception):
    """What a check saw; becomes a `Broken` when its rule is known."""


class _NotAsked(Exception):
    """Why a rule does not apply to this plugin."""


def only_if(holds: object, why_not: str) -> None:
    """Continue if `holds`; otherwise the rule is left out, and the report says why."""
    if not holds:
        raise _NotAsked(why_not)


def expect(holds: object, seen: str) -> None:
    """Continue if `holds`; otherwise the check's rule is broken, and `seen` says how."""
    if not holds:
        raise _Seen(seen)


def expect_same(got: object, wanted: object, what: str) -> None:
    """`got == wanted`, or the rule is broken."""
    expect(got == wanted, f"{what}: expected {_brief(wanted)}, got {_brief(got)}")


async def refused(doing: Awaitable[object], error: type[BaseException], what: str) -> Any:
    """Await `doing`, which must raise `error`; returns the error."""
    try:
        answer = await doing
    except error as raised:
        return raised
    except Exception as other:
        raise _Seen(f"{what}: expected {error.__name__}, got {type(other).__name__}: {other}") from other
    raise _Seen(f"{what}: expected {error.__name__}, but it was accepted and answered {_brief(answer)}")


@attrs.frozen(kw_only=True)
class Rule(Generic[W]):
    """`number`: of a rule in docs/protocol.md, or the name of a hook. `law`: what must hold. `because`: what goes wrong
    otherwise. `needs`: a property of the plugin without which the rule says nothing."""

    number: str
    law: str
    because: str
    check: Check[W]
    needs: str | None = None

    @property
    def name(self) -> str:
        return self.check.__name__

    def __str__(self) -> str:
        return f"{self.number}: {self.law}, because {self.because}"

    def broken(self, seen: str) -> Broken:
        if self.needs is not None:
            seen = f"{seen.rstrip('.')}. If it cannot be {self.needs}, pass {self.needs}=False."
        return Broken(f"{self}. Seen: {seen}")


class Suite(Generic[W]):
    """The rules of one layer, in the order in which they are written."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.rules: list[Rule[W]] = []

    def rule(self, number: str, law: str, *, because: str, needs: str | None = None) -> Callable[[Check[W]], Check[W]]:
        def register(check: Check[W]) -> Check[W]:
            assert check.__name__ not in {rule.name for rule in self.rules}, f"two checks named {check.__name__}"
            self.rules.append(Rule(number=number, law=law, because=because, check=check, needs=needs))
            return check

        return register


@attrs.frozen
class Report:
    """What a run found. `kept`: names of rules that hold; `errors`: what broke a rule, by name; `left_out`: why a rule
    was not checked, by name."""

    kept: Sequence[str]
    errors: Mapping[str, Broken]
    left_out: Mapping[str, str]

    @property
    def ok(self) -> bool:
        """No rule is broken. Rules that were left out do not count."""
        return not self.errors

    @property
    def broken(self) -> Mapping[str, str]:
        """The message of each broken rule, by name."""
        return {name: " ".join(str(error).split()) for name, error in self.errors.items()}

    def __str__(self) -> str:
        lines = [f"BROKEN {name}\n    {message}" for name, message in self.broken.items()]
        lines += [f"left out {name}: {why}" for name, why in self.left_out.items()]
        counts = f"{len(self.kept)} kept, {len(self.errors)} broken, {len(self.left_out)} left out"
        return "\n".join([*lines, counts])


class Contract(Mapping[str, Callable[..., None]], Generic[W]):
    """A suite bound to a plugin: a mapping of pytest functions by name, each a `run` of one rule.

    `enter`: from a private folder, which one check has to itself, to its world. `has`: the properties this plugin has,
    for rules that need one. `backends`: event loops. `limit`: seconds that one check may take.
    """

    def __init__(
        self,
        suite: Suite[W],
        enter: Callable[[Path], AbstractAsyncContextManager[W]],
        *,
        name: str,
        has: Mapping[str, bool],
        backends: Sequence[str] = BACKENDS,
        limit: float = 30.0,
    ) -> None:
        if not re.fullmatch(r"[a-z_][a-z0-9_]*", name):
            raise InvalidOption(
                shown(name), "must be a lower-case identifier", 'For example: name="memory".', name="contract name"
            )
        self._suite, self._enter, self._has = suite, enter, has
        self._name, self._backends, self._limit = name, tuple(backends), limit
        self.rules: Mapping[str, Rule[W]] = {f"test_{name}_{rule.name}": rule for rule in suite.rules}

    def __repr__(self) -> str:
        return f"<Contract {self._name}: {len(self.rules)} rules>"

    def __iter__(self) -> Iterator[str]:
        return iter(self.rules)

    def __len__(self) -> int:
        return len(self.rules)

    def __getitem__(self, name: str) -> Callable[..., None]:
        """A test function, run on each event loop. It needs no pytest plugin and no fixture."""
        import pytest

        rule = self.rules[name]

        @pytest.mark.parametrize("backend", self._backends)
        def test(backend: str) -> None:
            report = anyio.run(self.run, name, backend=backend)
            for error in report.errors.values():
                if error.__cause__ is None:
                    pytest.fail(report.broken[name], pytrace=False)  # a sentence, without the stack of this package
                raise error  # with the stack of the plugin
            for why in report.left_out.values():
                pytest.skip(why)

        test.__name__ = test.__qualname__ = name
        test.__doc__ = str(rule)
        return test

    async def run(self, *names: str) -> Report:
        """Check every rule (or those named), one after the other, on the event loop of the caller.

        Raises `InvalidOption` for a name that is not among `rules`. A broken rule is not raised but reported.
        """
        kept, errors, left_out = list[str](), dict[str, Broken](), dict[str, str]()
        for name in names or self.rules:
            if name not in self.rules:
                raise InvalidOption(
                    shown(name), "must be a rule of this contract", f"Rules: {', '.join(self)}.", name="rule"
                )
            try:
                await self._check(self.rules[name])
            except _NotAsked as why_not:
                left_out[name] = str(why_not)
            except Broken as error:
                errors[name] = error
            else:
                kept.append(name)
        return Report(kept, errors, left_out)

    async def _check(self, rule: Rule[W]) -> None:
        """Raises `Broken`; `_NotAsked` for a rule that does not apply to this plugin."""
        only_if(rule.needs is None or self._has[rule.needs], f"not asked of a plugin that is not {rule.needs}")
        with tempfile.TemporaryDirectory(prefix="aether_bg-contract-", ignore_cleanup_errors=True) as folder:
            try:
                with anyio.fail_after(self._limit):
                    async with self._enter(Path(folder)) as world:
                        await rule.check(world)
            except TimeoutError as error:
                raise rule.broken(f"no end within {self._limit:g} s ({error or 'something hangs'})") from error
            except Exception as error:
                seen = _innermost(error)
                if isinstance(seen, _NotAsked):
                    raise seen from None
                if isinstance(seen, _Seen):
                    raise rule.broken(str(seen)) from seen.__cause__
                raise rule.broken(f"{type(seen).__name__}: {seen}") from error


def _innermost(error: BaseException) -> BaseException:
    """Task groups wrap what a check saw."""
    while isinstance(error, BaseExceptionGroup):
        error = next((e for e in error.exceptions if isinstance(_innermost(e), _Seen | _NotAsked)), error.exceptions[0])
    return error


def _brief(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 400 else f"{text[:399]}…"
