"""A connection that loses answers: between a client and a server, it passes a request on and hangs up instead of its answer."""

from __future__ import annotations

import contextlib
import select
import socket
import threading
from collections.abc import Iterator


class Lossy:
    """Forwards connections from a port of its own."""

    def __init__(self, port: int) -> None:
        """Listen.

        Args:
            port: The server's, on loopback.
        """
        self._target = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self.lost = 0
        """Answers lost so far."""
        self._word, self._every, self._seen = b"", 0, 0
        threading.Thread(target=self._accept, daemon=True).start()

    def lose(self, word: bytes, every: int) -> None:
        """Lose the answer to every so manieth request that holds `word`; 0: to none."""
        self._word, self._every, self._seen = word, every, 0

    def close(self) -> None:
        """Accept no more."""
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._forward, args=(client,), daemon=True).start()

    def _forward(self, client: socket.socket) -> None:
        losing = False
        with contextlib.suppress(OSError), client, socket.create_connection(("127.0.0.1", self._target)) as server:
            while True:
                for ready in select.select([client, server], [], [])[0]:
                    data = ready.recv(1 << 16)
                    if ready is server and losing:
                        self.lost += 1
                        return
                    if not data:
                        return
                    if ready is client and self._every and self._word in data:
                        self._seen += 1
                        losing = self._seen % self._every == 0
                    (server if ready is client else client).sendall(data)


@contextlib.contextmanager
def lossy(port: int) -> Iterator[Lossy]:
    """A lossy way to a server on loopback."""
    way = Lossy(port)
    try:
        yield way
    finally:
        way.close()
