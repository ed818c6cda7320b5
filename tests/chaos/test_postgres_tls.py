"""PostgreSQL: certificates are wrong, and the password stays unseen. Row 119 of the table."""

from __future__ import annotations

import logging
import pickle
import shutil
import subprocess
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest

from aether_bg import Aether, JobStatus, errors
from aether_bg.testing.postgres import PostgresCluster, require_postgres, unprivileged

psycopg = pytest.importorskip("psycopg")
from aether_bg import PostgresStore  # noqa: E402

HOST = "db.example.org"
Note = Callable[[str], None]


class Authority:
    """Of certificates, made by openssl in a folder that the server can read."""

    def __init__(self, folder: Path, name: str) -> None:
        self.folder, self.name = folder, name
        self._openssl("req", "-x509", *KEY, "-keyout", self.key(name), "-out", self.cert, "-subj", f"/CN={name}")

    @property
    def cert(self) -> str:
        return str(self.folder / f"{self.name}.crt")

    def key(self, name: str) -> str:
        return str(self.folder / f"{name}.key")

    def issue(self, host: str) -> tuple[str, str]:
        """The files of a certificate for this host, and of its key."""
        name = f"{self.name}-{host}"
        request, extension, made = (str(self.folder / f"{name}.{end}") for end in ("csr", "ext", "crt"))
        Path(extension).write_text(f"subjectAltName=DNS:{host}\n")
        self._openssl("req", *KEY, "-keyout", self.key(name), "-out", request, "-subj", f"/CN={host}")
        signed_by = ("-CA", self.cert, "-CAkey", self.key(self.name), "-CAcreateserial")
        self._openssl("x509", "-req", "-in", request, *signed_by, "-out", made, "-days", "2", "-extfile", extension)
        return made, self.key(name)

    def _openssl(self, *arguments: str) -> None:
        subprocess.run(["openssl", *arguments], check=True, capture_output=True)


KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")


@pytest.fixture
def folder() -> Iterator[Path]:
    made = Path(tempfile.mkdtemp(prefix="aether_bg-tls-"))
    made.chmod(0o755)
    yield made
    shutil.rmtree(made)


class Secured:
    """A server whose certificate can be changed, and all that was said about it."""

    def __init__(self, cluster: PostgresCluster, folder: Path, log: pytest.LogCaptureFixture) -> None:
        self.server, self._folder, self._log = cluster.server, folder, log
        self.said: list[str] = []

    def serve(self, cert: str, key: str) -> None:
        """From now on with this certificate, at once for new connections."""
        for source, target in ((cert, "server.crt"), (key, "server.key")):
            path = self._folder / target
            shutil.copy(source, path)
            path.chmod(0o600)
            if (user := unprivileged()) is not None:
                shutil.chown(path, user)
        self.server.set(ssl="on", ssl_cert_file=f"{self._folder}/server.crt", ssl_key_file=f"{self._folder}/server.key")
        time.sleep(0.3)

    def url(self, host: str = HOST, **options: str) -> str:
        given = "&".join(f"{name}={value}" for name, value in {"hostaddr": "127.0.0.1", **options}.items())
        return f"{self.server.url().replace('127.0.0.1', host)}?{given}"

    def starts(self, **options: Any) -> str:
        """Its protection; a refusal is raised."""
        store = PostgresStore(self.url(**options), connect_for=20)
        app = Aether(store, scheduler="timer")
        app.handler("Work")(lambda: None)

        async def main() -> str:
            async with app:
                assert (await app.wait(await app.enqueue("Work"), 20)).status is JobStatus.COMPLETED
                return store._open().protection

        self.said += [repr(store), repr(vars(store)), repr(pickle.dumps(store)), repr(app)]
        return anyio.run(main)

    def refuses(self, kind: type[errors.StoreError], words: str, **options: Any) -> None:
        """At once, though a server that is away would be waited for."""
        began = time.monotonic()
        with pytest.raises(kind, match=words) as raised:
            self.starts(**options)
        assert time.monotonic() - began < 10
        self.said += [repr(raised.value), "".join(traceback.format_exception(raised.value))]

    def check_secret(self) -> None:
        assert self.server.password not in "".join([*self.said, self._log.text])


@pytest.fixture
def secured(folder: Path, caplog: pytest.LogCaptureFixture) -> Iterator[Secured]:
    require_postgres()
    caplog.set_level(logging.DEBUG)
    with PostgresCluster() as cluster:
        yield Secured(cluster, folder, caplog)


@pytest.mark.row(119, small=1, full=5)
def test_certificates(secured: Secured, folder: Path, count: int, note: Note, caplog: pytest.LogCaptureFixture) -> None:
    good, other = Authority(folder, "good"), Authority(folder, "other")
    for _ in range(count):
        verified: dict[str, Any] = {"sslmode": "verify-full", "sslrootcert": good.cert}
        secured.server.set(ssl=None)
        time.sleep(0.3)
        secured.refuses(errors.StoreDenied, "does not support SSL", **verified)
        secured.refuses(errors.StoreDenied, "does not support SSL", sslmode="require")
        assert secured.starts() == "plain"
        assert "is plain" in caplog.text
        secured.serve(*good.issue(HOST))
        caplog.clear()
        assert secured.starts(**verified) == "verified"
        assert "others on the network" not in caplog.text
        assert secured.starts(sslmode="require") == "encrypted, not verified"
        assert "is encrypted, not verified" in caplog.text
        secured.refuses(errors.StoreDenied, "does not match host name", host="other.example.org", **verified)
        secured.refuses(errors.StoreDenied, "certificate verify failed", **{**verified, "sslrootcert": other.cert})
        secured.refuses(errors.StoreDenied, "does not exist", **{**verified, "sslrootcert": f"{folder}/none.crt"})
        secured.check_secret()
        caplog.clear()
    note(f"{count} x: 5 refused, 3 accepted, of which 2 with a warning; the password is nowhere")


@pytest.mark.row(119, small=1, full=3)
def test_a_server_that_changes_its_certificate(secured: Secured, folder: Path, count: int, note: Note) -> None:
    """A running process does not talk to an impostor; it goes on when its server is back."""
    good, other = Authority(folder, "good"), Authority(folder, "other")
    right, wrong = good.issue(HOST), other.issue(HOST)
    secured.serve(*right)
    store = PostgresStore(secured.url(sslmode="verify-full", sslrootcert=good.cert), busy=1)
    app, back = Aether(store, scheduler="timer"), list[float]()
    app.handler("Work")(lambda: None)

    def change(files: tuple[str, str]) -> None:
        secured.serve(*files)
        ours = "application_name = 'aether_bg'"
        secured.server.execute(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE {ours}")

    async def main() -> None:
        async with app:
            for number in range(count):
                await anyio.to_thread.run_sync(change, wrong)
                with pytest.raises(errors.StoreTrouble, match="certificate verify failed") as raised:
                    await app.enqueue("Work", f"lost-{number}")
                secured.said.append("".join(traceback.format_exception(raised.value)))
                await anyio.sleep(1)
                await anyio.to_thread.run_sync(change, right)
                began = time.monotonic()
                while True:
                    try:
                        job = await app.enqueue("Work", f"job-{number}")
                        break
                    except errors.StoreTrouble:
                        await anyio.sleep(0.1)
                assert (await app.wait(job, 20)).status is JobStatus.COMPLETED
                back.append(time.monotonic() - began)
        assert (await_lost := secured.server.execute("SELECT count(*) FROM aether_bg.owners")) == [(0,)], await_lost

    anyio.run(main)
    secured.check_secret()
    note(f"{count} changes; works again after at most {max(back):.1f} s")
