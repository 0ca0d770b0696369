"""Majordomo 0.1 broker, with the habits of the Python example, which peers that keep to the RFC can kill.

It keeps waiting workers in two lists, of their service and of the broker, and a worker that is deleted leaves only the first. So a polite
DISCONNECT, or READY twice, is a `ValueError` when that worker would have expired, and at once while it is busy. A message
without an empty first frame, or of one frame, ends it too. Busy workers never expire and their requests are never given to another;
heartbeats go to waiting workers only; `mmi.service` knows every name that was ever asked for.
"""

from __future__ import annotations

from time import monotonic

from textbook.mdclient import CLIENT
from textbook.mdworker import DISCONNECT, HEARTBEAT, READY, REPLY, REQUEST, WORKER
from textbook.peer import LOOPBACK, Peer

INTERNAL = b"mmi."


class Service:
    def __init__(self, name: bytes) -> None:
        self.name = name
        self.requests: list[list[bytes]] = []
        self.waiting: list[Worker] = []


class Worker:
    def __init__(self, identity: bytes, expires: float) -> None:
        self.identity, self.expires = identity, expires
        self.service: Service | None = None


class MajordomoBroker(Peer):
    def __init__(self, endpoint: str = LOOPBACK, *, beat_seconds: float = 2.5, liveness: int = 3) -> None:
        super().__init__()
        self.beat_seconds, self.expiry_seconds = beat_seconds, beat_seconds * liveness
        self._socket, self.endpoint = self.bind(endpoint)
        self._services: dict[bytes, Service] = {}
        self._workers: dict[bytes, Worker] = {}
        self._waiting: list[Worker] = []
        self._beat_at = 0.0

    def loop(self) -> None:
        self._beat_at = monotonic() + self.beat_seconds
        while True:
            if self.wait(self.beat_seconds, self._socket):
                frames = self._socket.recv_multipart()
                sender, empty = frames.pop(0), frames.pop(0)
                assert empty == b""
                header = frames.pop(0)
                if header == CLIENT:
                    self._from_client(sender, frames)
                elif header == WORKER:
                    self._from_worker(sender, frames)
                else:
                    self.note("invalid", header)
            self._purge()
            self._beat()

    # -- clients ------------------------------------------------------------------------------------------------------

    def _from_client(self, client: bytes, frames: list[bytes]) -> None:
        assert len(frames) >= 2
        service, *body = frames
        if not service.startswith(INTERNAL):
            return self._dispatch(self._service(service), [client, b"", *body])
        code = b"501"
        if service == b"mmi.service":
            code = b"200" if body[-1] in self._services else b"404"
        self._socket.send_multipart([client, b"", CLIENT, service, *body[:-1], code])

    def _service(self, name: bytes) -> Service:
        return self._services.setdefault(name, Service(name))

    def _dispatch(self, service: Service, request: list[bytes] | None) -> None:
        if request is not None:
            service.requests.append(request)
        self._purge()
        while service.waiting and service.requests:
            worker = service.waiting.pop(0)
            self._waiting.remove(worker)
            self._to_worker(worker, REQUEST, *service.requests.pop(0))
            self.note("dispatched", worker.identity)

    # -- workers ------------------------------------------------------------------------------------------------------

    def _from_worker(self, sender: bytes, frames: list[bytes]) -> None:
        assert len(frames) >= 1
        command, known = frames.pop(0), sender in self._workers
        worker = self._workers.setdefault(sender, Worker(sender, monotonic() + self.expiry_seconds))
        if command == READY:
            assert len(frames) >= 1
            if known or frames[0].startswith(INTERNAL):
                self._delete(worker, tell=True)
            else:
                worker.service = self._service(frames[0])
                self._wait_for_work(worker)
        elif command == REPLY:
            if known:
                client, _empty, *body = frames
                assert worker.service is not None
                self._socket.send_multipart([client, b"", CLIENT, worker.service.name, *body])
                self._wait_for_work(worker)
            else:
                self._delete(worker, tell=True)
        elif command == HEARTBEAT:
            if known:
                worker.expires = monotonic() + self.expiry_seconds
            else:
                self._delete(worker, tell=True)
        elif command == DISCONNECT:
            self._delete(worker, tell=False)
        self.note("worker", command, sender)

    def _wait_for_work(self, worker: Worker) -> None:
        assert worker.service is not None
        self._waiting.append(worker)
        worker.service.waiting.append(worker)
        worker.expires = monotonic() + self.expiry_seconds
        self._dispatch(worker.service, None)

    def _delete(self, worker: Worker, tell: bool) -> None:
        if tell:
            self._to_worker(worker, DISCONNECT)
        if worker.service is not None:
            worker.service.waiting.remove(worker)  # the flaw: it stays in the broker's own list
        del self._workers[worker.identity]

    def _to_worker(self, worker: Worker, command: bytes, *frames: bytes) -> None:
        self._socket.send_multipart([worker.identity, b"", WORKER, command, *frames])

    def _purge(self) -> None:
        while self._waiting and self._waiting[0].expires < monotonic():
            self._delete(self._waiting[0], tell=False)
            self.note("expired", self._waiting.pop(0).identity)

    def _beat(self) -> None:
        if monotonic() > self._beat_at:
            for worker in self._waiting:
                self._to_worker(worker, HEARTBEAT)
            self._beat_at = monotonic() + self.beat_seconds
