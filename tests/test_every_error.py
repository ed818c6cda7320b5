"""Every class of aether_bg.errors is raised by something a user can do, and says value, rule and remedy; bad input of
any kind is refused at the call, and changes nothing."""

from __future__ import annotations

import errno
import json
import math
import os
import pickle
import shutil
import sqlite3
import sys
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import anyio
import attrs
import pytest

from aether_bg import Aether, Backoff, JobContext, JobInfo, JobStatus, SQLiteStore, errors, hookimpl
from aether_bg.errors import AetherError, InvalidMetadata, InvalidName, InvalidOption, InvalidPayload, StoreTrouble
from aether_bg.model import Insert, Update, Write
from aether_bg.plugins.sqlite import files

pytestmark = [pytest.mark.anyio, pytest.mark.one_loop]
Blocking = Any  # what `app.blocking()` yields

Make = Callable[..., Aether]
Case = Callable[[Make, Path], Awaitable[object]]
CASES: dict[str, tuple[str, Case]] = {}


def raises(name: str, said: str) -> Callable[[Case], Case]:
    """Registers the case of the error `name`, whose message matches `said`: value, rule and remedy in this order."""

    def register(case: Case) -> Case:
        assert name not in CASES
        CASES[name] = said, case
        return case

    return register


@attrs.define
class Mail:
    to: str
    copies: int = 0
    at: datetime | None = None


class Service:
    pass


def waiting(make: Make, **options: Any) -> Aether:
    """An app with a handler that is not kept busy."""
    app = make(**options)
    app.handler("Work")(lambda: None)
    app.handler("Mail")(_mail)
    return app


async def _mail(args: Mail) -> None: ...


HOUR = timedelta(hours=1)


# -- input -----------------------------------------------------------------------------------------


@raises("InvalidName", r"^job name must not contain '/', got 'a/b'\. Use '-', '_', '\.' or ':' instead\.$")
async def _(make: Make, path: Path) -> None:
    async with waiting(make) as app:
        await app.enqueue("Work", "a/b")


@raises("InvalidPayload", r"^the payload at \$\.copies: it does not fit Mail: 'two' is not an int\. Compare it with")
async def _(make: Make, path: Path) -> None:
    async with waiting(make) as app:
        await app.enqueue("Mail", payload={"to": "a", "copies": "two"})


@raises("InvalidMetadata", r"^nan at \$\.x: JSON has no NaN and no infinity\. Pass None, or text\.$")
async def _(make: Make, path: Path) -> None:
    async with waiting(make) as app:
        await app.enqueue("Work", metadata={"x": math.nan})


@raises("InvalidSchedule", r"^schedule '61 \* \* \* \*', minute: .*61.*\. For example: ")
async def _(make: Make, path: Path) -> None:
    async with waiting(make) as app:
        await app.enqueue("Work", schedule="61 * * * *")


@raises("InvalidOption", r"^option 'concurency': there is no such option\. Did you mean 'concurrency'\?$")
async def _(make: Make, path: Path) -> None:
    make(concurency=4)


@raises(
    "UnknownHandler", r"^handler 'Wrok': no handler of that name is registered in this process\. Did you mean 'Work'"
)
async def _(make: Make, path: Path) -> None:
    async with waiting(make) as app:
        await app.enqueue("Wrok")


# -- jobs ------------------------------------------------------------------------------------------


@raises("JobNotFound", r"^job 'nothing': there is no such job\. Was it purged\? app\.store\.find\(\) lists jobs\.$")
async def _(make: Make, path: Path) -> None:
    async with waiting(make) as app:
        await app.trigger("nothing")


@raises(
    "JobConflict", r"^job name 'one': it is held by a SCHEDULED job that differs in schedule\. Use another name, or"
)
async def _(make: Make, path: Path) -> None:
    async with waiting(make) as app:
        await app.enqueue("Work", "one", schedule=HOUR)
        await app.enqueue("Work", "one", schedule=2 * HOUR)


@raises("InvalidTransition", r"^pause of job 'one': it is COMPLETED\. \w+.*\.$")
async def _(make: Make, path: Path) -> None:
    async with waiting(make) as app:
        await app.wait(await app.enqueue("Work", "one"), 10)
        await app.pause("one")


@raises("WaitTimeout", r"^wait for job 'one': it has not ended within 0\.01 s: SCHEDULED\. It goes on; app\.explain")
async def _(make: Make, path: Path) -> None:
    async with waiting(make) as app:
        await app.enqueue("Work", "one", schedule=HOUR)
        await app.wait("one", 0.01)


@raises("JobFailed", r"^the result of job 'one': it is CANCELLED\. `retry` runs it again\.$")
async def _(make: Make, path: Path) -> None:
    async with waiting(make) as app:
        await app.enqueue("Work", "one", schedule=HOUR)
        await app.delete("one")
        await app.result("one", 1)


@raises(
    "NoResult",
    r"^the result of job 'one': none was kept\. Register its handler with keep_result: @app\.handler\('Work'",
)
async def _(make: Make, path: Path) -> None:
    async with waiting(make) as app:
        await app.enqueue("Work", "one", schedule=HOUR)
        await app.store.update_status((await app.store.find())[0].id, JobStatus.COMPLETED)
        await app.result("one", 1)


@raises(
    "NeverEnds", r"^wait for job 'one': it recurs without end\. Give it repeats or until, or look at its history\.$"
)
async def _(make: Make, path: Path) -> None:
    async with waiting(make) as app:
        await app.enqueue("Work", "one", schedule="@yearly")
        await app.wait("one", 1)


@raises("TokenLost", r"^attempt 1 of job 'one': it no longer holds the job: it has ended, .* let the error pass\.$")
async def _(make: Make, path: Path) -> None:
    app, errors, deleted = make(), list[Exception](), anyio.Event()

    @app.handler("Late")
    async def late(ctx: JobContext) -> None:
        with anyio.CancelScope(shield=True):
            await app.delete("one")
            try:
                await ctx.checkpoint(1)
            except Exception as error:
                errors.append(error)
            deleted.set()

    async with app:
        await app.enqueue("Late", "one")
        await deleted.wait()
    raise errors[0]


@raises("DependencyFailed", r"^the dependency .*: its factory failed: ZeroDivisionError: .* See the cause above\.$")
async def _(make: Make, path: Path) -> None:
    app = make()
    app.provide(SimpleNamespace, lambda: 1 // 0, scope="app")
    await app.start()


# -- usage -----------------------------------------------------------------------------------------


@raises("NotStarted", r"^<Aether .*not running>: it is not running\. Use it inside `async with app:` or")
async def _(make: Make, path: Path) -> None:
    await waiting(make).enqueue("Work")


@raises("AlreadyStarted", r"^handler on a running app: it belongs before the start\. Move it up\.$")
async def _(make: Make, path: Path) -> None:
    async with waiting(make) as app:
        app.handler("Late")(lambda: None)


@raises("NotAnOwner", r"^client\.trigger: a client only enqueues and queries\. Call it on the app that runs jobs\.$")
async def _(make: Make, path: Path) -> None:
    async with waiting(make).client() as jobs:
        await jobs.trigger("one")


@raises("WrongLoop", r"^<Aether .*>: app\.sync is for other threads, .*\. Here await the verb itself, .*`\.$")
async def _(make: Make, path: Path) -> None:
    app = make()
    async with app:
        app.sync.enqueue("Work")


@raises("ForkedProcess", r"^<(Aether|SQLiteStore) .*>: this process was forked after .*\. Start after forking\.$")
async def _(make: Make, path: Path) -> None:
    """A real fork is in tests/app/test_app_processes.py; here the process takes itself for another one."""
    async with waiting(make) as app:
        real = os.getpid()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(os, "getpid", lambda: real + 1)
            await app.store.stats()


@raises("InsideUnitOfWork", r"^pause inside a unit of work: only enqueue can join it\. Call pause before or after")
async def _(make: Make, path: Path) -> None:
    async with waiting(make) as app, app.unit_of_work():
        await app.pause("one")


@raises("UnitOfWorkClosed", r"^this unit of work: it has ended\. Open another one\.$")
async def _(make: Make, path: Path) -> None:
    async with waiting(make) as app:
        async with app.unit_of_work() as uow:
            pass
        uow.execute("SELECT 1")


# -- handlers --------------------------------------------------------------------------------------


@raises(
    "InvalidHandler", r"^handler 'Lazy': it is a generator: its body would never run\. Use `return`, not `yield`\.$"
)
async def _(make: Make, path: Path) -> None:
    def lazy() -> Any:
        yield

    make().handler("Lazy")(lazy)


@raises("DuplicateHandler", r"^handler 'Work': the name is taken by .*lambda.*\. Choose another name\.$")
async def _(make: Make, path: Path) -> None:
    waiting(make).handler("Work")(lambda: None)


@raises(
    "UnresolvedDependency", r"^parameter 'service' of handler 'Needy': nothing provides Service\. Register a factory"
)
async def _(make: Make, path: Path) -> None:
    app = make()

    @app.handler("Needy")
    def needy(*, service: Service) -> None: ...

    async with app:
        pass


# -- plugins; each mistake is in test_registration.py ------------------------------------------------


class Scheduling:
    @hookimpl
    async def schedule_run(self, kernel: Any) -> None:
        await anyio.sleep_forever()


class Misspelt:
    @hookimpl
    def dispatch_rap(self, ctx: Any) -> None: ...


class NotAsync:
    @hookimpl
    def lifecycle_event(self, event: Any) -> None: ...


class Half:
    @hookimpl
    async def schedule_arm(self, job: Any) -> bool:
        return True


@raises("UnknownHook", r"Misspelt\.dispatch_rap: there is no hook 'dispatch_rap'\. Did you mean 'dispatch_wrap'\?$")
async def _(make: Make, path: Path) -> None:
    make(plugins=[Misspelt()])


@raises(
    "HookShape", r"NotAsync\.lifecycle_event: it is 'def' but hook 'lifecycle_event' is 'async def'\. Write async def"
)
async def _(make: Make, path: Path) -> None:
    make(plugins=[NotAsync()])


@raises("LayerConflict", r"^layer scheduling: .*Scheduling and .*Scheduling both own it\. Pass one of them\.$")
async def _(make: Make, path: Path) -> None:
    make(plugins=[Scheduling(), Scheduling()])


@raises("IncompleteLayer", r"Half: it owns the scheduling layer but lacks schedule_run\. Implement all of its hooks")
async def _(make: Make, path: Path) -> None:
    make(plugins=[Half()])


@raises("DuplicatePlugin", r"Scheduling: it was given twice\. Pass it once\.$")
async def _(make: Make, path: Path) -> None:
    scheduling = Scheduling()
    make(plugins=[scheduling, scheduling])


@raises("NotAPlugin", r"^plugin Scheduling: it is a class, not an object\. Pass Scheduling\(…\)\.$")
async def _(make: Make, path: Path) -> None:
    make(plugins=[Scheduling])


# -- stores ----------------------------------------------------------------------------------------


@raises(
    "StoreBusy", r"^database .*jobs\.db: another program has held its write lock past the deadline\. Look for a long"
)
async def _(make: Make, path: Path) -> None:
    async with waiting(make, store=SQLiteStore(path, busy=0.2)) as app:
        with closing(sqlite3.connect(path, isolation_level=None)) as outsider:
            outsider.execute("BEGIN IMMEDIATE")
            try:
                await app.enqueue("Work")
            finally:
                outsider.execute("ROLLBACK")


@raises("StoreFull", r"^database .*jobs\.db: no space is left for it\. Free some; then it goes on by itself\.$")
async def _(make: Make, path: Path) -> None:
    """A database that may not grow answers as on a full disk."""
    with closing(sqlite3.connect(path, isolation_level=None)) as conn:
        conn.execute("PRAGMA max_page_count = 2")
        conn.execute("CREATE TABLE t (x)")
        try:
            conn.execute("INSERT INTO t VALUES (zeroblob(100000))")
        except sqlite3.Error as error:
            raise files.translate(error, path) from error


@raises("StoreReadOnly", r"^database .*jobs\.db: it, or its folder, cannot be written\. Give this user write access\.$")
async def _(make: Make, path: Path) -> None:
    with closing(sqlite3.connect(path)) as conn:
        conn.execute("CREATE TABLE t (x)")
    with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as conn:
        try:
            conn.execute("INSERT INTO t VALUES (1)")
        except sqlite3.Error as error:
            raise files.translate(error, path) from error


@raises(
    "StoreGone", r"^database .*jobs\.db: it or its -wal file was removed or replaced while it was open\. Stop every"
)
async def _(make: Make, path: Path) -> None:
    async with waiting(make) as app:
        kept = path.with_name("kept")
        shutil.copy(path, kept)
        path.unlink()
        try:
            await app.store.find()
        finally:
            kept.rename(path)


@raises(
    "StoreBroken", r"^database .*jobs\.db: it is damaged \(.*malformed.*\)\. Restore a backup, or save what `\.recover`"
)
async def _(make: Make, path: Path) -> None:
    with closing(sqlite3.connect(path)) as conn:
        conn.execute("CREATE TABLE t (x)")
        conn.executemany("INSERT INTO t VALUES (?)", [("x" * 500,)] * 100)
        conn.commit()
    whole = path.read_bytes()
    path.write_bytes(whole[:4096] + b"\xff" * (len(whole) - 4096))
    with closing(sqlite3.connect(path)) as conn:
        try:
            conn.execute("SELECT count(x) FROM t").fetchall()
        except sqlite3.Error as error:
            raise files.translate(error, path) from error


@raises(
    "StoreFolderMissing", r"^database .*none.jobs\.db: its folder .*none does not exist\. Create the folder first\.$"
)
async def _(make: Make, path: Path) -> None:
    async with make(path.parent / "none" / "jobs.db"):
        pass


@raises("StoreIsDirectory", r"^database .*: it is a folder\. Name a regular file inside an existing folder\.$")
async def _(make: Make, path: Path) -> None:
    async with make(path.parent):
        pass


@raises("NotADatabase", r"^file .*jobs\.db: it is not a SQLite database\. Name another file\.$")
async def _(make: Make, path: Path) -> None:
    path.write_text("a letter", encoding="utf-8")
    async with make():
        pass


@raises("SchemaTooNew", r"^database .*jobs\.db: it was written by a newer aether_bg \(schema step 9999.*\)\. Upgrade")
async def _(make: Make, path: Path) -> None:
    async with make():
        pass
    with closing(sqlite3.connect(path)) as conn:
        table, columns = "aether_migrations", "migration_set, name, applied_at"
        conn.execute(
            f"INSERT INTO {table} ({columns}) SELECT migration_set, '9999_later', applied_at FROM {table} LIMIT 1"
        )
        conn.commit()
    async with make():
        pass


@raises(
    "TablesTaken", r"^database .*jobs\.db: it already has table aether_jobs, and aether_bg did not .*\. Rename it, or"
)
async def _(make: Make, path: Path) -> None:
    with closing(sqlite3.connect(path)) as conn:
        conn.execute("CREATE TABLE aether_jobs (mine)")
    async with make():
        pass


@raises("StoreRefused", r"^a write: a constraint of the schema refused it \(.*\)\. Run `aether-bg check`\.$")
async def _(make: Make, path: Path) -> None:
    store = SQLiteStore(path)
    async with waiting(make, store=store) as app:
        job = await app.store.get(await app.enqueue("Work", schedule=HOUR))
        assert job is not None
        await store.store_transact([Insert(attrs.evolve(job, job_name="other"))])  # the id is taken


@raises(
    "DeniedSQL", r"^PRAGMA in a unit of work: its statements run inside one transaction, .*\. Leave it out; the commit"
)
async def _(make: Make, path: Path) -> None:
    async with waiting(make) as app, app.unit_of_work() as uow:
        uow.execute("PRAGMA synchronous = OFF")


@raises(
    "UnitOfWorkTimeout", r"^unit of work \(run\(.*\)\): must end within 0\.1 s, .*\. Wait and compute outside of it"
)
async def _(make: Make, path: Path) -> None:
    store = SQLiteStore(path, unit_timeout=0.1)
    async with waiting(make, store=store) as app, app.unit_of_work() as uow:
        uow.run(lambda tx: time.sleep(0.3))


class WithoutSQL(SQLiteStore):
    """A store of somebody's that has no SQL, as it should behave."""

    @hookimpl
    async def store_transact(self, writes: Sequence[Write]) -> Sequence[object]:
        if not all(isinstance(write, Insert | Update) for write in writes):
            raise errors.Unsupported("Call", "this store has no SQL", "Use SQLiteStore for units of work with SQL.")
        return await super().store_transact(writes)


@raises("Unsupported", r"^Call: this store has no SQL\. Use SQLiteStore")
async def _(make: Make, path: Path) -> None:
    async with waiting(make, store=WithoutSQL(path)) as app, app.unit_of_work() as uow:
        uow.execute("SELECT 1")


class Answers(SQLiteStore):
    """A store of somebody's whose server answers with an error of its own."""

    def __init__(self, path: Path, error: AetherError) -> None:
        super().__init__(path)
        self.error = error

    @hookimpl
    async def store_transact(self, writes: Sequence[Write]) -> Sequence[object]:
        raise self.error


CONTENDED = errors.StoreContended("job 'one'", "another transaction holds its row", "Try again, each write by itself.")
UNSURE = errors.StoreUnsure("a write", "the connection was lost before the answer came", "Repeat it with the same id.")


@raises("StoreContended", r"^job 'one': another transaction holds its row\. Try again, each write by itself\.$")
async def _(make: Make, path: Path) -> None:
    async with waiting(make, store=Answers(path, CONTENDED)) as app:
        await app.enqueue("Work", "one")


@raises("StoreUnsure", r"^a write: the connection was lost before the answer came\. Repeat it with the same id\.$")
async def _(make: Make, path: Path) -> None:
    async with waiting(make, store=Answers(path, UNSURE)) as app:
        await app.enqueue("Work", "one")


@raises("Stale", r"^job [0-9a-f-]{36}: its row has changed since it was read\. Read it again, and decide again\.$")
async def _(make: Make, path: Path) -> None:
    """What an author of a plugin sees who writes with an old seq: pause's own change, twice."""
    store, changes = Recording(path), []
    store.saved = changes
    async with waiting(make, store=store) as app:
        await app.pause(await app.enqueue("Work", schedule=HOUR))
        await store.store_transact(changes[-1:])


class Recording(SQLiteStore):
    saved: list[Write]

    @hookimpl
    async def store_transact(self, writes: Sequence[Write]) -> Sequence[object]:
        self.saved.extend(write for write in writes if isinstance(write, Update))
        return await super().store_transact(writes)


@raises("NameHeld", r"^job name 'one': another job holds it\. Read that job, and decide again\.$")
async def _(make: Make, path: Path) -> None:
    store = SQLiteStore(path)
    async with waiting(make, store=store) as app:
        job = await app.store.get(await app.enqueue("Work", "one", schedule=HOUR))
        assert job is not None
        await store.store_transact([Insert(attrs.evolve(job, id=uuid4()))])


# -- schedulers ------------------------------------------------------------------------------------


def answered(code: str, details: str = "") -> Exception:
    """What the Dapr plugin makes of the sidecar's answer."""
    grpc = pytest.importorskip("grpc")
    from aether_bg.plugins.dapr.trouble import translated

    return translated(getattr(grpc.StatusCode, code).name, details, "127.0.0.1:50001", "DAPR_GRPC_PORT")


@raises(
    "SchedulerUnavailable",
    r"^Dapr sidecar 127\.0\.0\.1:50001 \(from DAPR_GRPC_PORT\): cannot be reached\. Start it with ",
)
async def _(make: Make, path: Path) -> None:
    raise answered("UNAVAILABLE")


@raises("SchedulerMisconfigured", r"^Dapr 1\.17\.9: is older than 1\.18\.3, the first that this .*\. Upgrade Dapr\.$")
async def _(make: Make, path: Path) -> None:
    pytest.importorskip("grpc")
    from aether_bg.plugins.dapr.fitness import misfit
    from aether_bg.plugins.dapr.settings import DaprSettings

    said = misfit(SimpleNamespace(runtime_version="1.17.9"), DaprSettings())
    assert said is not None
    raise said


# -- all of them -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CASES)
async def test_raised_by_something_a_user_can_do(name: str, make_app: Make, path: Path) -> None:
    said, case = CASES[name]
    kind = getattr(errors, name)
    with pytest.raises(AetherError, match=said) as caught:
        await case(make_app, path)
    error = caught.value
    assert type(error) is kind
    for part in (error.value, error.rule):
        assert part
        assert part.rstrip(".") in str(error)
    assert error.remedy
    assert str(error).endswith(error.remedy)
    assert "\n" not in str(error)
    again = pickle.loads(pickle.dumps(error))  # from a process pool, say
    assert (type(again), str(again), vars(again).keys()) == (kind, str(error), vars(error).keys())


SERVER = "database jobs on db.example.org:5432"


@raises("StoreUnreachable", r"^database jobs on \S+: its server cannot be reached\. It is tried again by itself\.$")
async def _(make: Make, path: Path) -> None:
    error = errors.StoreUnreachable(SERVER, "its server cannot be reached", "It is tried again by itself.")
    async with waiting(make, store=Answers(path, error)) as app:
        await app.enqueue("Work", "one")


@raises("StoreDenied", r"^database jobs on \S+: the server refuses the role\. Check pg_hba\.conf\.$")
async def _(make: Make, path: Path) -> None:
    error = errors.StoreDenied(SERVER, "the server refuses the role", "Check pg_hba.conf.")
    async with waiting(make, store=Answers(path, error)) as app:
        await app.enqueue("Work", "one")


@raises("SchemaMissing", r"^database jobs on \S+: it lacks tables\. Run `aether-bg migrate`\.$")
async def _(make: Make, path: Path) -> None:
    error = errors.SchemaMissing(SERVER, "it lacks tables", "Run `aether-bg migrate`.")
    async with waiting(make, store=Answers(path, error)) as app:
        await app.enqueue("Work", "one")


def leaves(kind: type[AetherError] = AetherError) -> set[str]:
    """Those of the package, not of other tests."""
    below = [one for one in kind.__subclasses__() if one.__module__.startswith(errors.__name__)]
    return set().union(*map(leaves, below)) if below else {kind.__name__}


def test_every_leaf_is_covered() -> None:
    assert leaves() | {"StoreBusy"} == set(CASES)  # StoreContended is a kind of it
    assert len(CASES) > 35


def test_the_inner_ones_catch_their_leaves() -> None:
    for name in CASES:
        assert issubclass(getattr(errors, name), AetherError)
    builtin = {
        "InvalidName": ValueError, "JobNotFound": LookupError, "WaitTimeout": TimeoutError, "NotStarted": RuntimeError,
        "InvalidHandler": TypeError, "UnknownHook": TypeError, "StoreBusy": StoreTrouble,
    }  # fmt: skip
    for name, other in builtin.items():
        assert issubclass(getattr(errors, name), other)


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (OSError(errno.ENOSPC, "x"), errors.StoreFull), (OSError(errno.EDQUOT, "x"), errors.StoreFull),
        (OSError(errno.EROFS, "x"), errors.StoreReadOnly), (PermissionError(errno.EACCES, "x"), errors.StoreReadOnly),
        (OSError(errno.EIO, "x"), errors.StoreBroken), (OSError(errno.ELOOP, "x"), errors.StoreIsDirectory),
    ],
)  # fmt: skip
def test_what_the_operating_system_says(error: OSError, kind: type[AetherError], path: Path) -> None:
    told = files.translate(error, path)
    assert type(told) is kind
    assert str(path) in str(told)
    assert told.remedy


async def test_a_read_only_folder(make_app: Make, path: Path) -> None:
    if not hasattr(os, "geteuid") or os.geteuid() == 0:
        pytest.skip("this user may write everywhere")
    path.parent.chmod(0o500)
    try:
        with pytest.raises(errors.StoreReadOnly, match="Give this user write access"):
            async with make_app():
                pass
    finally:
        path.parent.chmod(0o700)


async def test_an_app_continues_after_an_error(make_app: Make, path: Path) -> None:
    """Busy once, then it works again, and what was refused is not there."""
    async with waiting(make_app, store=SQLiteStore(path, busy=0.2)) as app:
        with closing(sqlite3.connect(path, isolation_level=None)) as outsider:
            outsider.execute("BEGIN IMMEDIATE")
            with pytest.raises(StoreTrouble):
                await app.enqueue("Work", "refused")
            outsider.execute("ROLLBACK")
        await app.wait(await app.enqueue("Work", "taken"), 10)
        assert [job.job_name for job in await app.store.find()] == ["taken"]


# -- bad input -------------------------------------------------------------------------------------


@contextmanager
def running(path: Path) -> Iterator[Blocking]:
    app = Aether(path / "jobs.db", scheduler="timer", grace=1)
    app.handler("Work")(lambda: None)
    app.handler("Mail")(_mail)
    app.handler("Any")(lambda args: None)
    app.handler("Dict")(_dict)
    with app.blocking() as jobs:
        yield jobs


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Blocking]:
    """An app that every test of this module leaves as it was: empty."""
    with running(tmp_path_factory.mktemp("empty")) as jobs:
        yield jobs


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Blocking]:
    """One that takes what is good."""
    with running(tmp_path_factory.mktemp("filled")) as jobs:
        yield jobs


async def _dict(args: dict[str, int]) -> None: ...


NAMES = [
    ("", "empty"), (" ", "empty"), ("\t", "empty"), ("x" * 201, "must have at most 200 characters, got .* It has 201"),
    ("a/b", "'/'"), ("a\\b", r"'\\\\'"), ("a#b", "'#'"), ("a?b", r"'\?'"), ("a\0b", r"U\+0000"),
    ("a\x1bb", r"U\+001B"), ("a\x7fb", r"U\+007F"), ("a\x85b", r"U\+0085"), ("a\nb", r"U\+000A"), ("a\r", r"U\+000D"),
    (".", "path"), ("..", "path"), ("a\ud800b", r"U\+D800"), ("a\u202eb", r"U\+202E"), ("a\u2066b", r"U\+2066"),
    ("a\u200fb", r"U\+200F"), ("a\u2028b", r"U\+2028"), (7, "string"), (b"a", "string"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "said"), NAMES, ids=lambda value: ascii(value)[:20])
def test_bad_names(empty: Blocking, name: Any, said: str, make_app: Make, path: Path) -> None:
    with pytest.raises(InvalidName, match=f"^job name .*{said}.*") as caught:
        empty.enqueue("Work", name)
    assert caught.value.remedy
    assert str(caught.value).isprintable()
    assert empty.store.find() == []
    other = make_app(path.with_name("other.db"))
    with pytest.raises(InvalidName, match=r"^handler name "):
        other.handler(name)
    with pytest.raises(InvalidName, match=r"^job name "):
        other.declare("Work", name)
    assert list(other.handlers) == []


@pytest.mark.parametrize("name", ["x" * 200, "a b", "Ünïcode-名前", "a.b:c_d-e", "…", "{[(\"'%*;"])
def test_good_names(filled: Blocking, name: str) -> None:
    job_id = filled.enqueue("Work", name, schedule=HOUR)
    job = filled.store.get_by_job_name(name)
    assert job is not None
    assert (job.id, job.job_name) == (job_id, name)


def cycle() -> Any:
    found: dict[str, Any] = {}
    found["a"] = [found]
    return found


def nested(depth: int) -> Any:
    found: Any = 0
    for _ in range(depth):
        found = [found]
    return found


PAYLOADS: list[tuple[str, Any, str, str]] = [
    ("Any", {"a": [1, math.nan]}, "$.a[1]", "no NaN"),
    ("Any", math.inf, "$", "no infinity"),
    ("Any", {"a": {"b": -math.inf}}, "$.a.b", "no infinity"),
    ("Any", [2**63], "$[0]", "64 bits"),
    ("Any", {"n": -(2**63) - 1}, "$.n", "64 bits"),
    ("Any", {"text": "a\ud800"}, "$.text", "surrogates"),
    ("Any", {"a\udfff": 1}, "$", "surrogates"),
    ("Any", "x" * 262_143, "$", "262,145 bytes"),
    ("Any", ["ä" * 131_072], "$", "262,148 bytes"),
    ("Any", {1: 2}, "$", "keys are strings"),
    ("Any", {"a": {1}}, "$.a", "set is not JSON"),
    ("Any", {"a": object()}, "$.a", "object is not JSON"),
    ("Any", pickle.dumps({"a": 1}), "$", "bytes is not JSON"),
    ("Any", [datetime(2030, 1, 1, tzinfo=UTC)], "$[0]", "datetime is not JSON"),
    ("Mail", {"to": 7}, "$.to", "7 is not a str"),
    ("Mail", Mail(to=7), "$.to", "7 is not a str"),  # type: ignore[arg-type]
    ("Mail", {"to": "a", "copies": True}, "$.copies", "True is not an int"),
    ("Mail", {"to": "a", "copies": 1.0}, "$.copies", "1.0 is not an int"),
    ("Mail", {"copies": 1}, "$.to", "to"),
    ("Mail", {"to": "a", "bcc": "b"}, "$", "bcc"),
    ("Mail", Mail(to="a", at=datetime(2030, 1, 1)), "$.at", "not a datetime with a time zone"),
    ("Mail", {"to": "a", "at": "2030-01-01T00:00:00"}, "$.at", "not a datetime with a time zone"),
    ("Mail", "a text", "$", "wants Mail, not str"),
    ("Mail", pickle.dumps(Mail(to="a")), "$", "wants Mail, not bytes"),
    ("Mail", None, "$", "missing"),
    ("Dict", {"a": "b"}, "$['a']", "not an int"),
    ("Work", 1, "$", "takes no payload"),
]


@pytest.mark.parametrize(
    ("handler", "payload", "at", "said"), PAYLOADS, ids=[f"{case[0]}-{case[3]}-{n}" for n, case in enumerate(PAYLOADS)]
)
def test_bad_payloads(empty: Blocking, handler: str, payload: Any, at: str, said: str) -> None:
    with pytest.raises(InvalidPayload) as caught:
        empty.enqueue(handler, "name", payload)
    error = caught.value
    assert said in str(error)
    assert error.path == at
    assert f" at {at}: " in str(error)
    assert len(str(error)) < 600
    assert empty.store.find() == []


@pytest.mark.parametrize("payload", [cycle(), nested(65), nested(5_000)], ids=["cycle", "65", "5000"])
def test_payloads_too_deep(empty: Blocking, payload: Any) -> None:
    with pytest.raises(InvalidPayload, match="nested more than 64 deep, or contains itself") as caught:
        empty.enqueue("Any", payload=payload)
    assert caught.value.path.startswith("$")
    assert empty.store.find() == []


@pytest.mark.parametrize("payload", [nested(64), 2**63 - 1, -(2**63), "x" * 262_142, {"": None}, [], False, "\x00"])
def test_payloads_at_the_limit(filled: Blocking, payload: Any) -> None:
    job = filled.store.get(filled.enqueue("Any", payload=payload, schedule=HOUR))
    assert job is not None
    assert job.payload == payload
    assert type(job.payload) is type(payload)


async def test_the_limit_of_payloads_can_be_set(make_app: Make) -> None:
    async with waiting(make_app, max_payload=20) as app:
        await app.enqueue("Mail", payload={"to": "1234567890a"}, schedule=HOUR)
        with pytest.raises(
            InvalidPayload, match=r"^a payload of 21 bytes at \$: at most 20 are allowed\. .*max_payload"
        ):
            await app.enqueue("Mail", payload={"to": "1234567890ab"}, schedule=HOUR)
        assert len(await app.store.find()) == 1


class Bomb:
    def __reduce__(self) -> Any:
        return os.abort, ()


def test_pickle_is_never_loaded(empty: Blocking) -> None:
    """Loading it would end this process."""
    with pytest.raises(InvalidPayload):
        empty.enqueue("Any", payload=pickle.dumps(Bomb()))
    with pytest.raises(InvalidPayload):
        empty.enqueue("Any", payload=Bomb())
    assert empty.store.find() == []


METADATA: list[tuple[Any, str]] = [
    ([("a", 1)], "mapping"), ("a", "mapping"), ({1: 2}, "keys are strings"), ({None: 2}, "keys are strings"),
    ({"a": math.nan}, r"at \$\.a: JSON has no NaN"), ({"a": [2**64]}, r"at \$\.a\[0\]"), ({"a": "\ud800"}, "surrog"),
    ({"a": {1, 2}}, "set is not JSON"), ({"a": datetime(2030, 1, 1, tzinfo=UTC)}, "datetime is not JSON"),
    ({str(n): n for n in range(65)}, "65 keys.*at most 64"), ({"a": "x" * 8185}, r"8,193 bytes.*8,192"),
    (cycle(), "contains itself"),
]  # fmt: skip


@pytest.mark.parametrize(("metadata", "said"), METADATA, ids=[said for _, said in METADATA])
def test_bad_metadata(empty: Blocking, metadata: Any, said: str) -> None:
    with pytest.raises(InvalidMetadata, match=said):
        empty.enqueue("Work", metadata=metadata)
    assert empty.store.find() == []


@pytest.mark.parametrize("metadata", [{str(n): n for n in range(64)}, {"a": "x" * 8184}, {}, {"a": {"b": [None]}}])
def test_metadata_at_the_limit(filled: Blocking, metadata: Any) -> None:
    job = filled.store.get(filled.enqueue("Work", metadata=metadata, schedule=HOUR))
    assert job is not None
    assert job.metadata == json.loads(json.dumps(metadata))


BAD_ENQUEUES: list[tuple[dict[str, Any], str]] = [
    ({"retries": 3}, "option 'retries': there is no such option"),
    ({"timzone": "UTC"}, "Did you mean 'timezone'"),
    ({"if_exists": "raze"}, "if_exists must be one of 'raise', 'keep', 'replace', got 'raze'"),
    ({"misfire": "never"}, ", got 'never'"),
    ({"misfire_grace": -1}, ", got -1"),
    ({"misfire_grace": math.nan}, ", got nan"),
    ({"schedule": "@daily", "repeats": 0}, ", got 0"),
    ({"schedule": "@daily", "repeats": True}, ", got True"),
    ({"repeats": 2}, "repeats must be left out for a job that does not recur, got 2"),
    ({"start": "tomorrow"}, "start must be a datetime, got 'tomorrow'"),
    ({"start": datetime(2030, 1, 1)}, "must have a time zone"),
    ({"until": datetime(2030, 1, 1)}, "must have a time zone"),
    ({"schedule": "whenever"}, "'whenever'"),
    ({"schedule": datetime(2030, 1, 1)}, "zone"),
    ({"schedule": 60}, "60"),
    ({"schedule": "@daily", "timezone": "Mars/Olympus"}, "Mars/Olympus"),
    ({"schedule": "@daily", "until": datetime(2000, 1, 1, tzinfo=UTC)}, "no occurrence before until=2000-01-01"),
]


@pytest.mark.parametrize(("options", "said"), BAD_ENQUEUES, ids=[said for _, said in BAD_ENQUEUES])
def test_bad_options_of_an_enqueue(empty: Blocking, options: dict[str, Any], said: str) -> None:
    with pytest.raises(errors.InputError) as caught:
        empty.enqueue("Work", "name", **options)
    assert said in str(caught.value)
    assert empty.store.find() == []


CONFIGURATION: list[tuple[dict[str, Any], str]] = [
    ({"lease": 0}, r"^lease must be a finite number of seconds, above 0, got 0\."),
    ({"lease": -1}, r"^lease must .*, got -1"),
    ({"lease": "15"}, r"^lease must .*, got '15'"),
    ({"lease": math.inf}, r"^lease must .*, got inf"),
    ({"lease": timedelta(0)}, r"^lease must "), ({"grace": -0.1}, r"^grace must .*0 or more, got -0\.1"),
    ({"grace": math.nan}, r"^grace must .*, got nan"),
    ({"grace": None}, r"^grace must .*, got None"),
    ({"grace": True}, r"^grace must .*, got True"),
    ({"concurrency": 0}, r"^concurrency must be a whole number of at least 1, got 0\."),
    ({"concurrency": True}, r"^concurrency must .*, got True"),
    ({"concurrency": "4"}, r"^concurrency must .*, got '4'"),
    ({"concurrency": 4.0}, r"^concurrency must .*, got 4\.0"), ({"max_payload": 0}, r"^max_payload must .*, got 0"),
    ({"actor": 7}, r"^actor must .*, got 7"),
    ({"clock": object()}, r"^clock must "),
    ({"scheduler": "cron"}, r"^scheduler must .*dap.*, got 'cron'"),
    ({"retention": -1}, r"^retention must .*, got -1"),
    ({"retention": {"running": 1}}, r"^retention must .*, got 'running'"),
    ({"retention": timedelta(-1)}, "not negative"), ({"plugins": "Tracing"}, r"^plugins must .*, got 'Tracing'"),
    ({"plugins": 7}, r"^plugins must .*, got 7"), ({"entry_points": 1}, r"^entry_points must .*, got 1"),
    ({"leese": 5}, r"^option 'leese': there is no such option\. Did you mean 'lease'\?"),
    ({"schedular": "timer"}, "Did you mean 'scheduler'"), ({"zzz": 1}, r"^option 'zzz': .*Known: scheduler, plugins, "),
    ({"store": ""}, "must be the path of a file"), ({"store": "a\0b"}, "must be the path of a file"),
    ({"store": SimpleNamespace()}, "no method of it is marked"), ({"store": "sqlite:///jobs.db"}, "a path, not a URL"),
    ({"store": b"jobs.db"}, "b'jobs.db'"),
]  # fmt: skip


@pytest.mark.parametrize(("options", "said"), CONFIGURATION, ids=[said for _, said in CONFIGURATION])
def test_bad_configuration(make_app: Make, path: Path, options: dict[str, Any], said: str) -> None:
    with pytest.raises(AetherError, match=said):
        make_app(**options)
    assert list(path.parent.iterdir()) == []


async def test_an_app_without_a_store() -> None:
    with pytest.raises(InvalidOption, match=r"it needs a store\. For example: Aether\(.jobs\.db.\)"):
        Aether()


@pytest.mark.parametrize("busy", [0, -1, True, "5", math.nan, math.inf])
def test_bad_busy(path: Path, busy: Any) -> None:
    with pytest.raises(InvalidOption, match=r"^busy must .*seconds above 0, got .*For example: 5\."):
        SQLiteStore(path, busy=busy)


HANDLERS: list[tuple[dict[str, Any], str]] = [
    ({"retries": -1}, r"^retries must be a whole number of at least 0, got -1\."),
    ({"retries": True}, r"^retries must .*, got True"),
    ({"retries": 1.5}, r"^retries must .*, got 1\.5"),
    ({"timeout": 0}, r"^timeout must .*, got 0"),
    ({"timeout": math.nan}, r"^timeout must .*, got nan"),
    ({"timeout": "30"}, r"^timeout must .*, got '30'"),
    ({"backoff": 5}, r"^backoff must be a Backoff, got 5\. For example: Backoff\("),
    ({"retrys": 3}, "Did you mean 'retries'"), ({"schedule": "sometimes"}, "schedule 'sometimes'"),
]  # fmt: skip


def test_a_handler_without_its_name(app: Aether) -> None:
    with pytest.raises(InvalidOption, match=r'must be a name, not the handler.*Write @app\.handler\("SendEmail"\)'):
        app.handler(lambda: None)  # type: ignore[arg-type]


@pytest.mark.parametrize(("options", "said"), HANDLERS, ids=[said for _, said in HANDLERS])
def test_bad_options_of_a_handler(app: Aether, options: dict[str, Any], said: str) -> None:
    with pytest.raises(errors.InputError, match=said):
        app.handler("Work", **options)(lambda: None)
    assert list(app.handlers) == []
    assert app.registration.declared == []


@pytest.mark.parametrize("field", ["first", "factor", "max", "jitter"])
@pytest.mark.parametrize("value", [math.nan, math.inf, -1, "1", True])
def test_bad_backoff(field: str, value: Any) -> None:
    with pytest.raises(InvalidOption) as caught:
        Backoff(**{field: value})
    assert field in str(caught.value)
    assert repr(value) in str(caught.value)


@pytest.mark.parametrize("port", [0, -1, 65536, "6000", True, 1.5])
def test_bad_ports(port: Any) -> None:
    pytest.importorskip("grpc")
    from aether_bg import DaprScheduler

    with pytest.raises(InvalidOption, match=r"^app_port of DaprScheduler must be a TCP port.*, got .* For example"):
        DaprScheduler(app_port=port)


@pytest.mark.parametrize("port", ["0", "70000", "http", "-1", "6000.0"])
def test_bad_ports_of_the_environment(make_app: Make, monkeypatch: pytest.MonkeyPatch, port: str) -> None:
    pytest.importorskip("grpc")
    monkeypatch.setenv("DAPR_GRPC_PORT", port)
    monkeypatch.delenv("DAPR_GRPC_ENDPOINT", raising=False)
    with pytest.raises(InvalidOption, match=r"^the environment variable DAPR_GRPC_PORT must be a TCP port.*, got "):
        make_app(scheduler="auto")


@pytest.mark.skipif(sys.platform == "win32", reason="links need rights there")
async def test_a_link_as_database(make_app: Make, path: Path) -> None:
    path.symlink_to(path.with_name("elsewhere.db"))
    with pytest.raises(errors.StoreIsDirectory, match=r"it is a link\. Name a regular file"):
        async with make_app():
            pass
    assert not path.with_name("elsewhere.db").exists()


async def test_refused_starts_leave_nothing(make_app: Make, path: Path) -> None:
    path.write_bytes(b"not a database, but somebody's data")
    for _ in range(2):
        with pytest.raises(errors.NotADatabase):
            async with make_app():
                pass
    assert path.read_bytes() == b"not a database, but somebody's data"


async def test_bad_input_in_a_unit_of_work_drops_only_what_it_says(make_app: Make) -> None:
    async with waiting(make_app) as app:
        async with app.unit_of_work():
            await app.enqueue("Work", "kept", schedule=HOUR)
            with pytest.raises(InvalidPayload):
                await app.enqueue("Mail", "refused", {"to": 7})
        assert [job.job_name for job in await app.store.find()] == ["kept"]


async def test_a_job_that_cannot_run_keeps_its_row(make_app: Make, path: Path) -> None:
    """Stored data is never lost to a code change."""
    async with waiting(make_app) as app:
        job_id = await app.enqueue("Mail", payload={"to": "a"}, schedule=timedelta(milliseconds=300))
    changed = make_app()

    @changed.handler("Mail")
    async def mail(args: int, ctx: JobContext) -> None: ...

    async with changed:
        job: JobInfo = await changed.wait(job_id, 10)
    assert job.status is JobStatus.FAILED
    assert "the payload at $" in (job.last_error or "")
    assert job.payload == {"to": "a"}
