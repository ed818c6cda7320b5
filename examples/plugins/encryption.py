"""Payloads encrypted at rest: a person who has the file, or a backup of it, cannot read them. Needs `cryptography`.

    from encryption import Sealed, new_key

    key = new_key()                                                    # once; keep it out of the file's backups
    seal = Sealed({"2026-11": key})
    app = Aether("jobs.db", plugins=[seal])                            # the producers' apps and clients as well

To rotate, put the new key first: `Sealed({"2027-01": new, "2026-11": old})`. New payloads are encrypted with the first
key; old ones are read with their own key, whose name is stored with them. Inside `async with app`, `reseal(store,
seal)` encrypts stored values again; when none is left, the old key is no longer needed. For a file with plain payloads,
begin with `Sealed(…, accept_plain=True)` and `reseal`, then drop the option and VACUUM the file.

AES-256-GCM with a random nonce, bound to the job: a payload that was tampered with, or is another job's, is refused;
its job fails and keeps its row. Results and checkpoints are encrypted like payloads; `reseal` leaves them, since they
are deleted with their run.

What it does not do: handler name, job name, schedule, metadata, results in your own tables and `last_error` stay
readable; put no secrets there, nor into exceptions. The command line has no keys, and shows payloads as they are
stored.
"""

from __future__ import annotations

import json
import os
from base64 import b64decode, b64encode
from collections.abc import Mapping
from typing import Any, Final, TypeAlias
from uuid import UUID

import attrs
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from aether_bg import JobInfo, JobStatus, Stale, hookimpl
from aether_bg.errors import InvalidOption, shown
from aether_bg.model import About, Change, Definition, Query, Update
from aether_bg.protocols import Store

MARK: Final = "sealed_with"
"""The key of an envelope that names the key: `{"sealed_with": "2026-11", "data": "…"}`."""
NONCE: Final = 12
BITE: Final = 200
Json: TypeAlias = Any


def new_key() -> bytes:
    """32 random bytes."""
    return AESGCM.generate_key(256)


class Sealed:
    """The plugin. `keys`: 32 bytes each, by name; the first one encrypts. `accept_plain`: also read payloads that are
    not encrypted, from before this plugin. Raises `InvalidOption` for no keys, or for a value that is not a key."""

    def __init__(self, keys: Mapping[str, bytes], *, accept_plain: bool = False) -> None:
        if not keys:
            raise InvalidOption("keys={}", "at least one is needed", "Make one with new_key() and keep it safe.")
        for name, key in keys.items():
            if not isinstance(key, bytes) or len(key) != 32:
                raise InvalidOption(f"key {shown(name)}", "must be 32 bytes", "Make one with new_key().")
        self._ciphers = {name: AESGCM(key) for name, key in keys.items()}
        self.current = next(iter(keys))
        """The name of the key that seals."""
        self._accept_plain = accept_plain

    def __repr__(self) -> str:
        return f"<Sealed with {self.current!r}>"

    @hookimpl
    def dispatch_codec(self) -> Sealed:
        return self

    def encode(self, value: Json, about: About) -> Json:
        """Any JSON value as an envelope, new each time."""
        nonce = os.urandom(NONCE)
        plain = json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()
        data = nonce + self._ciphers[self.current].encrypt(nonce, plain, _bound_to(self.current, about))
        return {MARK: self.current, "data": b64encode(data).decode()}

    def decode(self, stored: Json, about: About) -> Json:
        """The value in the envelope. Raises `ValueError` for an unknown key, a broken seal, and a plain value."""
        name = self.key_of(stored)
        if name is None:
            if self._accept_plain:
                return stored
            raise ValueError("it is not sealed. Read it with Sealed(…, accept_plain=True), and reseal")
        if name not in self._ciphers:
            raise ValueError(f"it is sealed with the key {shown(name)}, which is not here. Add it to the keys")
        data = b64decode(stored["data"], validate=True)
        try:
            return json.loads(self._ciphers[name].decrypt(data[:NONCE], data[NONCE:], _bound_to(name, about)))
        except InvalidTag:
            rule = f"it was changed or is another job's, or the key {shown(name)} is another one"
            raise ValueError(f"its seal is broken: {rule}") from None

    @staticmethod
    def key_of(stored: Json) -> str | None:
        """The name of the key that a stored payload is sealed with; None for a plain one."""
        if isinstance(stored, dict) and stored.keys() == {MARK, "data"}:
            return str(stored[MARK])
        return None


def _bound_to(key: str, about: About) -> bytes:
    """Authenticated together with the value, so that it does not pass for another job's, nor a result for a payload. A
    job keeps its id, unlike its handler and its metadata."""
    return f"{key} {about.what} {about.job_id}".encode()


@attrs.frozen
class Resealed:
    """What `reseal` did: how many rows it encrypted again, how many it skipped because they ran or were changed at that
    moment, and the jobs whose payload no key here can read."""

    done: int
    left: int
    unreadable: tuple[UUID, ...]


async def reseal(store: Store, seal: Sealed) -> Resealed:
    """Encrypt with the current key what is stored with another one, or plain. `store`: open, of an app or a client.

    Apps may run at the same time: each row is written under its guard, and skipped while it runs. Raises `StoreError`.
    """
    done = left = 0
    unreadable: list[UUID] = []
    after: UUID | None = None
    while rows := await store.store_find(Query(after=after, limit=BITE)):
        after = rows[-1].id
        for job in rows:
            if seal.key_of(job.payload) == seal.current:
                continue
            about = About.of(job)
            try:
                payload = seal.encode(seal.decode(job.payload, about), about)
            except ValueError:
                unreadable.append(job.id)
                continue
            try:
                if job.status is JobStatus.RUNNING:
                    raise Stale(job.id, job)
                await store.store_transact([Update(_with_payload(job, payload))])
                done += 1
            except Stale:
                left += 1
    return Resealed(done, left, tuple(unreadable))


_STATE: Final = attrs.fields_dict(Change).keys() & attrs.fields_dict(JobInfo).keys() - {"seq", "schedule_rev"}
_DEFINITION: Final = attrs.fields_dict(Definition).keys()


def _with_payload(job: JobInfo, payload: Json) -> Change:
    """The row with another payload. The seq stays, so what a scheduler holds for it stays right."""
    state: dict[str, Any] = {name: getattr(job, name) for name in _STATE}
    definition: dict[str, Any] = {name: getattr(job, name) for name in _DEFINITION} | {"payload": payload}
    return Change(
        job_id=job.id,
        seq=job.seq,
        schedule_rev=job.schedule_rev,
        next_seq=job.seq,
        next_rev=job.schedule_rev + 1,
        definition=Definition(**definition),
        **state,
    )
