"""What an app consists of before it starts: plugins, handlers, dependencies, declarations, settings."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import attrs

from aether_bg._app.admission import Admission
from aether_bg._handlers.dependencies import Dependencies
from aether_bg._handlers.registry import Handlers
from aether_bg._hooks.calls import Calls
from aether_bg._hooks.plugins import Plugins, default, entry_points, name_of
from aether_bg._hooks.stores import store_of
from aether_bg._kernel.timings import Timings
from aether_bg._rules import validation as checks
from aether_bg._rules.settings import Options
from aether_bg.errors import InvalidOption
from aether_bg.protocols import Runner

log = logging.getLogger("aether_bg")


@attrs.frozen(kw_only=True, eq=False)
class Registration:
    """One attribute of `Aether`, exchanged as a whole by the sandbox. `declared`: arguments of `enqueue`; `provided`:
    arguments of `provide`; `because`: why this scheduler was chosen."""

    options: Options
    plugins: Plugins
    calls: Calls
    handlers: Handlers
    dependencies: Dependencies
    declared: list[Mapping[str, Any]]
    provided: list[tuple[Any, Callable[..., Any] | None, Callable[..., Any] | None, bool]]
    because: str
    timings: Timings = attrs.field(factory=Timings)

    @classmethod
    def of(cls, store: Any, scheduler: Any, plugins: Any, from_entry_points: Any, options: Options) -> Registration:
        """Raises `InvalidOption` or a `PluginError`."""
        registered, because = _plugins(store, scheduler, plugins, from_entry_points)
        dependencies = Dependencies()
        return cls(
            options=options, plugins=registered, calls=Calls(registered), handlers=Handlers(dependencies),
            dependencies=dependencies, declared=[], provided=[], because=because,
        )  # fmt: skip

    def admission(self, *, client: bool = False) -> Admission:
        return Admission(self.calls, self.handlers, self.options.max_payload, client=client)

    def provide(
        self, type: Any, factory: Callable[..., Any] | None, ping: Callable[..., Any] | None, lasts: bool
    ) -> None:
        self.dependencies.provide(type, factory, ping, lasts=lasts)
        self.handlers.provided_by(self.dependencies)
        self.provided.append((type, factory, ping, lasts))

    def resolve(self) -> None:
        """When the app starts: everything that handlers request must be provided. Raises an `InputError`."""
        self.handlers.resolve(self.dependencies)
        self.admission().check_declared(self.declared)

    def runners(self) -> dict[str, Runner]:
        """Where each handler's code runs. Each plugin is asked once per handler and start."""
        found: dict[str, Runner] = {}
        for name in self.handlers:
            runner = self.calls.runner(self.handlers.compiled(name).info)
            assert runner is not None  # the default dispatch takes every handler
            found[name] = runner
        return found

    def log_start(self) -> None:
        """Which file, which scheduler and why, which handlers."""
        store = self.plugins.owners("persistence")[0]
        path = getattr(store, "path", None)
        summary: dict[str, Any] = {
            "store": os.path.abspath(path) if isinstance(path, str | os.PathLike) else repr(store),
            "scheduler": name_of(self.plugins.owners("scheduling")[0]),
            "handlers": sorted(self.handlers),
        }
        log.info(
            "starting: store %s, scheduler %s (%s), handlers %s", summary["store"], summary["scheduler"], self.because,
            ", ".join(summary["handlers"]) or "none", extra=summary,
        )  # fmt: skip


def _plugins(store: Any, scheduler: Any, plugins: Any, from_entry_points: Any) -> tuple[Plugins, str]:
    """Registered in layer order; defaults fill only the layers without an owner. Also says why this scheduler was
    chosen."""
    if not isinstance(from_entry_points, bool):
        checks.refuse("entry_points", from_entry_points, "must be True or False")
    if isinstance(plugins, str) or not isinstance(plugins, Iterable):
        checks.refuse("plugins", plugins, "must be a list of plugins", "For example: plugins=[Tracing()].")
    given = list(plugins) + (list(entry_points()) if from_entry_points else [])
    if store is not None:
        given.insert(0, store_of(store))
    choice, because = "given", "given"
    if isinstance(scheduler, str):
        choice = checks.one_of("scheduler", scheduler, ("auto", "timer", "dapr"))
    else:
        given.insert(1, scheduler)
    registered = Plugins()
    for plugin in given:
        registered.register(plugin)
    if not registered.owners("persistence"):
        raise InvalidOption("Aether()", "it needs a store", 'For example: Aether("jobs.db"), or Aether(":memory:").')
    if choice != "given" and not registered.owners("scheduling"):
        choice, because = _chosen(choice)
        registered.register(default(choice)())
    registered.register(default("dispatch")())
    registered.check_layers()
    return registered, because


def _chosen(choice: str) -> tuple[str, str]:
    if choice != "auto":
        return choice, f"scheduler={choice!r}"
    for variable in ("DAPR_GRPC_PORT", "DAPR_GRPC_ENDPOINT"):
        if os.environ.get(variable):
            return "dapr", f"the environment has {variable}"
    return "timer", "no Dapr sidecar is announced"
