"""A TCP proxy in front of Postgres that loses the answer to some of the commits it lets through."""

from __future__ import annotations

import random
import socket
import threading
from contextlib import suppress

# In an answer: the tag of a COMMIT, and columns of statements that are transactions by themselves: of submits
# and of outcomes, with the release of what waited for them.
_COMMITTED = (b"COMMIT\0", b"inserted\0", b"written\0")


class LossyProxy:
    """With `probability`, a connection is cut after the server has answered its commit and before we pass
    that on: the commit took place and nobody is told. `cuts` counts them.
    """

    def __init__(self, host: str, port: int, *, probability: float, seed: int) -> None:
        self._target = (host, port)
        self.probability = probability
        self._dice = random.Random(seed)
        self.cuts = 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._open: set[socket.socket] = set()
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    def __enter__(self) -> LossyProxy:
        return self

    def __exit__(self, *_: object) -> None:
        for one in (self._listener, *list(self._open)):
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(5)
        self._listener.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                thread = threading.Thread(target=self._serve, args=(client,), daemon=True)
                self._threads.append(thread)
                thread.start()

    def _serve(self, client: socket.socket) -> None:
        with client, socket.create_connection(self._target) as server:
            self._open |= {client, server}
            back = threading.Thread(target=self._answer, args=(server, client), daemon=True)
            back.start()
            with suppress(OSError):
                while data := client.recv(65536):
                    server.sendall(data)
            _shut(server)
            back.join(5)
            self._open -= {client, server}

    def _answer(self, server: socket.socket, client: socket.socket) -> None:
        with suppress(OSError):
            while data := server.recv(65536):
                is_done = any(sign in data for sign in _COMMITTED)
                if is_done and self._dice.random() < self.probability:
                    self.cuts += 1
                    break
                client.sendall(data)
        _shut(server)
        _shut(client)


def _shut(one: socket.socket) -> None:
    # close() alone would leave the other side waiting, with its locks.
    with suppress(OSError):
        one.shutdown(socket.SHUT_RDWR)
