"""Answering calls: what a handler's value, parts or exception become, and the threads in which handlers run."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from traceback import format_exception
from typing import Any

import msgpack

from zmqkit import codec
from zmqkit.codec import packer
from zmqkit.errors import MessageTooLarge, RemoteError
from zmqkit.handles.calling import pack_typed
from zmqkit.handles.consumer import Pool, checked_credit, log
from zmqkit.handles.crew import Crew
from zmqkit.handles.current import CURRENT, Current
from zmqkit.handles.hand import Credit, Demand
from zmqkit.handles.requests import PART, Flow
from zmqkit.wire import Status

TEXT_BYTES_MAX = 64 * 1024  # of an error's message, and of its traceback

Pack = Callable[[Any], bytes]


def body_of(call: Current, load: Callable[[Any], Any] | None) -> Any:
    """What the handler is called with. Raises Undecodable."""
    hand, index = call.hand, call.index
    if index in hand.bad:
        raise codec.Undecodable(hand.bad[index])
    return load(hand.bodies[index]) if load else hand.bodies[index]


def answer_ok(call: Current, value: Any, pack: Pack) -> None:
    """Its value, to a caller that wants one; the I/O thread is not woken yet. Raises what the handler could have raised."""
    call.hand.inbox.answers.append((call.hand, call.index, Status.OK, packed(call, value, pack)))


def packed(call: Current, value: Any, pack: Pack) -> bytes:
    """Raises Unencodable, MessageTooLarge, and TypeError for a stream that nobody can take."""
    try:
        message = pack(value)
    except Exception as error:
        if isinstance(value, Iterator | AsyncIterator):
            raise TypeError(f"{call.service!r} answers in parts: use stream()") from None
        message = pack_typed(value, error)
    limit = call.hand.inbox.session.message_bytes
    if len(message) > limit:
        raise MessageTooLarge(len(message), limit)
    return message


def answer_error(call: Current, error: BaseException) -> None:
    log.info("service %s: %s: %s", call.service, type(error).__name__, error, exc_info=error)
    call.hand.inbox.answer(call, Status.ERROR, error_body(error))


def answer_part(call: Current, flow: Flow, part: Any, pack: Pack) -> None:
    """Once there is room for it."""
    call.hand.inbox.answer(call, PART, packed(call, part, pack))
    flow.made += 1


def answer_end(call: Current, flow: Flow) -> None:
    call.hand.inbox.answer(call, Status.END, msgpack.packb(flow.made))


def cancelled() -> RemoteError:
    return RemoteError("Cancelled", "nobody waited for the answer any more, or the worker was stopped at once")


def error_body(error: BaseException) -> bytes:
    if isinstance(error, RemoteError):
        told = error.kind, error.message, error.traceback
    else:
        try:
            message = str(error)
        except Exception as worse:  # its own
            message = f"<{type(worse).__name__} in its __str__>"
        trace = error.__traceback__
        told = type(error).__name__, message, "".join(format_exception(type(error), error, trace.tb_next if trace else None))
    return msgpack.packb([_text(str(text)) for text in told])  # type: ignore[no-any-return]


def _text(text: str) -> str:
    """Its end, for that says most; letters that cannot be sent are replaced."""
    encoded = text.encode(errors="replace")
    return text if len(encoded) <= TEXT_BYTES_MAX and text.isascii() else encoded[-TEXT_BYTES_MAX:].decode(errors="ignore")


class Serving(Pool):
    """Threads that answer calls until `stop`."""

    def __init__(self, crew: Crew, threads: int, credit: Credit) -> None:
        super().__init__(threads)
        self.count, self.credit = threads, checked_credit(credit)
        self.demands: dict[str, Demand] = {}
        self._crew, self._ended = crew, False
        crew.join(self)

    @property
    def ended(self) -> bool:
        return self._ended

    def stop(self) -> None:
        """Finish what runs, take nothing new: the rest goes to other workers. May be called in a signal handler."""
        self._ended = True
        self._crew.leave(self)

    def ring(self) -> None:
        """Threads wait for the crew's `changed` themselves."""

    def _run(self) -> None:
        crew, pack = self._crew, packer()
        wake, answered = crew.nodes.reactor.wake, False
        while not self._ended:
            seen = crew.news
            call = crew.take()
            if answered:
                wake()  # not before: the I/O thread needs the interpreter, which is free when we wait, right behind this
            if call is None:
                crew.wait(seen, lambda: self._ended)
                answered = False
            else:
                _answer(call, pack)
                answered = True
                del call  # while we wait its lease must not look as if somebody still had it
        wake()


def _answer(call: Current, pack: Pack) -> None:
    service, flow = call.hand.inbox.service, call.hand.flow
    if service is None:  # it was closed at this moment
        return call.hand.inbox.hand_back(call.hand.lease, [call.index])
    CURRENT.set(call)
    try:
        value = service.function(body_of(call, service.load))
        if flow is None:
            answer_ok(call, value, pack)
        else:
            _answer_in_parts(call, flow, value if isinstance(value, Iterator) else iter([value]), pack)
    except BaseException as error:  # also SystemExit: a call ends no worker
        answer_error(call, error)
    finally:
        CURRENT.set(None)


def _answer_in_parts(call: Current, flow: Flow, parts: Iterator[Any], pack: Pack) -> None:
    try:
        for part in parts:
            flow.wait(None)
            if flow.over:
                raise cancelled()
            answer_part(call, flow, part, pack)
        answer_end(call, flow)
    finally:
        if hasattr(parts, "close"):
            parts.close()
