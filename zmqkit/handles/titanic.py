"""Titanic (RFC 9, TSP): requests that outlive their client, their worker and the node; an application of queues and calls.

    titanic.request   [service, body…]   ["200", uuid] once it is stored
    titanic.reply     [uuid]             ["200", body…], ["300"] not yet, ["400"] unknown, ["500", reason] given up until redriven
    titanic.close     [uuid]             ["200"]: nothing is kept of it, and it is not executed if it has not been

Rule 1: a request is a message in REQUESTS, confirmed before 200 is said; an answer one in REPLIES, confirmed before its request is acked.
Rule 2: memory holds an index (uuid -> numbers in the queues) and nothing else; at start it is read off the queues.
Rule 3: what is closed stays closed. A request that somebody executes just then cannot be removed: a mark in REPLIES says so until it can.
Rule 4: a request is called again until it is answered, under one key, so the node executes it once and joins whoever asks meanwhile.
"""

from __future__ import annotations

import json
import os
import re
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError
from contextlib import suppress
from logging import getLogger
from typing import Any

from zmqkit.errors import Closed, Error, MessageTooLarge, NoWorker, Refused, RemoteError, Timeout, Unencodable
from zmqkit.handles.admin import Peeked
from zmqkit.handles.client import Peer
from zmqkit.handles.consumer import Work
from zmqkit.handles.crew import Service
from zmqkit.handles.delivery import Delivery, Reject, Retry, Snooze
from zmqkit.handles.durations import Duration, seconds
from zmqkit.handles.names import service_name
from zmqkit.handles.queue import Queue
from zmqkit.handles.serving import Serving
from zmqkit.handles.titanic_index import Entry, Index
from zmqkit.machines.policy import Backoff, QueuePolicy
from zmqkit.reactor import now

REQUESTS, REPLIES = "titanic.requests", "titanic.replies"
KEEP_SECONDS = 7 * 86400.0
CALL_SECONDS = 60.0  # one that takes longer is asked for again, and joined
STORE_SECONDS = 10.0
FAILURES_MAX = 8  # of the service, then the request is a dead letter
RETRY_SECONDS, RETRY_SECONDS_MAX = 0.25, 10.0  # while nobody serves it
SWEEP_SECONDS_MIN, SWEEP_SECONDS_MAX = 0.1, 3600.0
PAGE_MESSAGES = 1000
LOOKS_MAX = 100
# Failures are counted by what the service answers; a node that was killed, however often, is not the request's fault.
POLICY = QueuePolicy(max_attempts=1_000_000, backoff=Backoff(1.0, 60.0))

OK, PENDING, UNKNOWN, LATER = b"200", b"300", b"400", b"500"
UUID = re.compile(r"[0-9a-fA-F]{32}")
FORBIDDEN = ("mmi.", "titanic.")  # nobody offers the first, and the others would wait for themselves

Frames = list[bytes]
log = getLogger("zmqkit.titanic")


class Titanic:
    """Offers the three services on `node` from `start` to `close`.

    keep      an answer is kept so long, unless it is closed before
    timeout   of one call; what is not answered by then is asked for again
    threads   so many requests are executed at a time
    """

    def __init__(self, node: Peer, *, keep: Duration = KEEP_SECONDS, timeout: Duration = CALL_SECONDS, threads: int = 8) -> None:
        self._node, self._keep, self._timeout, self._threads = node, seconds(keep), seconds(timeout), threads
        self._requests: Queue[Any] = node.queue(REQUESTS)
        self._replies: Queue[Any] = node.queue(REPLIES)
        self._index = Index()
        self._services: list[Service] = []
        self._serving: Serving | None = None
        self._work: Work[Any] | None = None
        self._closed = threading.Event()
        self._sweeper = threading.Thread(target=self._sweep_on, name="zmqkit-titanic", daemon=True)

    def start(self) -> Titanic:
        """Read off the queues what is there, and serve."""
        if REQUESTS not in [info.name for info in self._node.queues()]:
            self._node.declare(REQUESTS, POLICY)
        self._restore()
        offers: dict[str, Callable[[Any], Frames]] = {
            "titanic.request": self.request, "titanic.reply": self.reply, "titanic.close": self.forget,
        }  # fmt: skip
        # Apart: what else this node serves, if it is slow, would leave no thread to say 200.
        self._services, self._serving = self._node._serve_apart("titanic", offers, self._threads)
        self._work = self._requests.work(self._execute, threads=self._threads, credit=self._threads, block=False)
        self._sweeper.start()
        return self

    def close(self, timeout: Duration = 5.0) -> None:
        """Serve no more. What runs is finished within `timeout`, or executed again by the next one who starts here."""
        self._closed.set()
        for service in self._services:
            with suppress(Closed):
                service.close()
        if self._serving is not None:
            self._serving.stop()
        if self._work is not None:
            self._work.stop()
            self._work.wait(seconds(timeout))
        if self._sweeper.is_alive():
            self._sweeper.join(seconds(timeout))

    def __enter__(self) -> Titanic:
        return self.start()

    def __exit__(self, *error: object) -> None:
        self.close()

    # -- the three services ---------------------------------------------------------------------------------------------

    def request(self, body: Any) -> Frames:
        service, *rest = body if isinstance(body, list) and body else [body]
        try:
            name = _name(service)
        except ValueError as error:
            return [UNKNOWN, str(error).encode()]
        uuid = os.urandom(16).hex()
        try:
            message = {"uuid": uuid, "service": name, "body": rest[0] if len(rest) == 1 else rest}
            receipt = self._requests.put(message, timeout=STORE_SECONDS)
        except (MessageTooLarge, Unencodable) as error:
            return [UNKNOWN, str(error).encode(errors="replace")]
        except Error as error:
            return _later(error)
        self._index.stored(uuid, receipt.seq)
        return [OK, uuid.encode()]

    def reply(self, body: Any) -> Frames:
        entry = self._index.find(_uuid(body))
        if entry is None or entry.closed or (entry.replies and entry.at + self._keep <= now()):
            return [UNKNOWN]
        try:
            if entry.replies:
                found = self._replies.peek(1, seqs=entry.replies)
                return [OK, *_frames(found[0].body["body"])] if found else [UNKNOWN]
            if entry.dead:
                letters = self._requests.dead.list(1, seqs=[entry.request or 0])
                if letters:
                    return [LATER, letters[0].reason.encode(errors="replace")]
        except Error as error:
            return _later(error)
        return [PENDING]

    def forget(self, body: Any) -> Frames:
        uuid = _uuid(body)
        entry = self._index.close(uuid)
        if entry is None:
            return [OK]
        if entry.call is not None:
            entry.call.cancel()
        try:
            if entry.request and (self._requests.purge([entry.request]) or self._requests.dead.drop([entry.request])):
                entry.request = 0
            if entry.request:  # somebody has it in hand
                mark = self._replies.put({"uuid": uuid, "closed": True}, timeout=STORE_SECONDS).seq
                self._index.marked(uuid, entry, mark)
            self._clear(uuid, entry)
        except Error as error:
            return _later(error)
        return [OK]

    # -- executing ------------------------------------------------------------------------------------------------------

    def _execute(self, d: Delivery[Any]) -> None:
        try:
            uuid, service, body = (d.body[name] for name in ("uuid", "service", "body"))
        except (TypeError, KeyError):
            raise Reject("this is no request of Titanic's") from None
        entry = self._index.taken(uuid, d.seq)
        if not entry.replies and not entry.closed:
            answer = self._call(d, entry, uuid, service, body)
            if not entry.closed:
                self._keep_answer(entry, uuid, answer)
        d.ack(wait=True)  # what is closed from now on leaves no mark: the request must be gone for good
        entry.request = 0
        if entry.closed:
            self._clear(uuid, entry)

    def _keep_answer(self, entry: Entry, uuid: str, answer: Any) -> None:
        at = now()
        try:
            receipt = self._replies.put({"uuid": uuid, "at": at, "body": answer}, timeout=STORE_SECONDS)
        except (MessageTooLarge, Unencodable) as error:
            entry.dead = True
            raise Reject(f"its answer cannot be kept: {error}") from None
        except (Refused, Timeout):
            raise Snooze(self._delay(entry)) from None  # it is asked for again, and the node has it still, under its key
        self._index.answered(uuid, entry, receipt.seq, at)

    def _call(self, d: Delivery[Any], entry: Entry, uuid: str, service: str, body: Any) -> Any:
        """The answer; whatever it is, if it was closed meanwhile. Raises what decides about the message otherwise."""
        failures = d.saved or 0
        key = f"{uuid}.{failures}" if failures else uuid  # a failure is an answer too, which the old key would get again
        try:
            entry.call = self._node.call_soon(service, body, timeout=self._timeout, retries=0, idempotency_key=key)
            if entry.closed:  # just before
                entry.call.cancel()
            return entry.call.result()
        except CancelledError:
            return None
        except RemoteError as error:
            d.save(failures + 1)
            if (failures + 1) % FAILURES_MAX:
                raise Retry(reason=str(error)) from None
            entry.dead = True
            raise Reject(f"failed {FAILURES_MAX} times, the last time: {error}") from None
        except (NoWorker, Timeout, Refused):
            raise Snooze(self._delay(entry)) from None
        except Closed:
            raise
        except (Error, ValueError, TypeError) as error:
            entry.dead = True
            raise Reject(f"it cannot be sent: {error}") from None

    def _delay(self, entry: Entry) -> float:
        entry.tries += 1
        return min(RETRY_SECONDS_MAX, RETRY_SECONDS * 2.0 ** min(entry.tries - 1, 20))

    # -- keeping --------------------------------------------------------------------------------------------------------

    def _clear(self, uuid: str, entry: Entry) -> None:
        """Throw away what is kept of a closed one; its mark only when its request is gone."""
        self._replies.purge(entry.replies)
        if not entry.request:
            self._replies.purge(entry.marks)
            self._index.drop(uuid)

    def _sweep_on(self) -> None:
        wait = 0.0
        while not self._closed.wait(wait):
            try:
                due = self._index.oldest() + self._keep
                while due <= now():
                    uuid, entry = self._index.expire()
                    self._clear(uuid, entry)
                    due = self._index.oldest() + self._keep
                # An answer that is given from now on is not due before `keep` has passed.
                wait = max(SWEEP_SECONDS_MIN, min(SWEEP_SECONDS_MAX, self._keep, due - now()))
            except Closed:
                return
            except Error as error:
                log.warning("old answers are not thrown away for now: %s", error)
                wait = RETRY_SECONDS_MAX

    def _restore(self) -> None:
        for message in _pages(self._replies, "ready"):
            try:
                uuid, closed, at = message.body["uuid"], message.body.get("closed", False), message.body.get("at", 0.0)
            except (TypeError, KeyError, AttributeError):
                log.warning("message %d of %s is no answer", message.seq, REPLIES)
                continue
            self._index.restore_reply(uuid, message.seq, closed, at)
        for _ in range(LOOKS_MAX):
            # A lease of the process before us may end meanwhile. On its way from one state to the next a message is in none: look again.
            seen = {seq for state in ("leased", "delayed", "ready", "dead") for seq in self._restore_requests(state)}
            info = self._requests.info()
            if len(seen) >= info.ready + info.leased + info.delayed + info.dead:
                break
        for uuid, entry in self._index.finished():
            self._clear(uuid, entry)

    def _restore_requests(self, state: str) -> Iterator[int]:
        for message in _pages(self._requests, state):
            yield message.seq
            try:
                self._index.restore_request(message.body["uuid"], message.seq, dead=state == "dead")
            except (TypeError, KeyError):
                log.warning("message %d of %s is no request", message.seq, REQUESTS)


def _pages(queue: Queue[Any], state: str) -> Iterator[Peeked]:
    page = queue.peek(PAGE_MESSAGES, state=state)
    while page:
        yield from page
        page = queue.peek(PAGE_MESSAGES, state=state, after=page[-1].seq)


def _name(service: Any) -> str:
    """Raises ValueError for what no service can be called."""
    try:
        name = service_name(service.decode() if isinstance(service, bytes) else service)
    except UnicodeDecodeError:
        raise ValueError("a service's name is UTF-8") from None
    if name.startswith(FORBIDDEN):
        raise ValueError(f"{name} is not called through Titanic")
    return name


def _uuid(body: Any) -> str:
    """In lower case, however it was written; "" for what is none."""
    if isinstance(body, list):
        body = body[0] if len(body) == 1 else b""
    text = body.decode("ascii", "replace") if isinstance(body, bytes) else body
    return text.lower() if isinstance(text, str) and UUID.fullmatch(text) else ""


def _frames(value: Any) -> Frames:
    """As a gateway tells it: bytes as they are, a text as UTF-8, anything else as JSON."""
    if isinstance(value, bytes):
        return [value]
    if isinstance(value, list) and all(isinstance(frame, bytes) for frame in value):
        return value
    if isinstance(value, str):
        return [value.encode(errors="replace")]
    return [json.dumps(value, ensure_ascii=False, default=lambda item: bytes(item).decode(errors="replace")).encode(errors="replace")]


def _later(error: Error) -> Frames:
    return [LATER, str(error).encode(errors="replace")]
