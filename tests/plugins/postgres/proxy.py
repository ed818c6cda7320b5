"""A line to the server that is cut where a test says: before a message has got through, or before its answer has."""

from __future__ import annotations

import socket
import threading
from contextlib import suppress
from typing import Literal

HOST = "127.0.0.1"


class Proxy:
    """`cut(how, marker)`: the next message with `marker` in it is lost, or its answer, and the line with it; once."""

    def __init__(self, port: int) -> None:
        self._to = port
        self._server = socket.create_server((HOST, 0))
        self.port = self._server.getsockname()[1]
        self._how: tuple[str, bytes] | None = None
        self._lock = threading.Lock()
        self.cuts = 0
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self, how: Literal["message", "answer"], marker: bytes) -> None:
        self._how = how, marker

    def close(self) -> None:
        self._server.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._server.accept()
                server = socket.create_connection((HOST, self._to))
                line = _Line(client, server)
                threading.Thread(target=self._forward, args=(line,), daemon=True).start()
                threading.Thread(target=line.answer, daemon=True).start()

    def _forward(self, line: _Line) -> None:
        with suppress(OSError):
            while data := line.client.recv(65536):
                with self._lock:
                    how, marker = self._how or ("", b"")
                    if hit := bool(how and marker in data):
                        self._how = None
                        self.cuts += 1
                if hit and how == "message":
                    break
                line.silent = hit
                line.server.sendall(data)
                if hit:
                    line.answered.wait(5)  # the server has done it
                    break
        line.close()


class _Line:
    def __init__(self, client: socket.socket, server: socket.socket) -> None:
        self.client, self.server, self.silent = client, server, False
        self.answered = threading.Event()

    def answer(self) -> None:
        with suppress(OSError):
            while data := self.server.recv(65536):
                if self.silent:
                    self.answered.set()
                    return
                self.client.sendall(data)
        self.close()

    def close(self) -> None:
        for end in (self.client, self.server):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()
