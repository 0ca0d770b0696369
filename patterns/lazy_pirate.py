"""Lazy Pirate: a server dies with the request in its hands.

A REQ socket waits for the answer for ever. With a timeout it gives up, and then refuses to send: it still owes a receive. So one dead
server ends a client, although the next server is there already. `call` gives a request with a key to the next server as soon as the
dead one's lease has ended.
"""

from __future__ import annotations

import time
from multiprocessing.connection import Connection

import zmq

import zmqkit
from patterns.stage import Stage, Told, die, play, told

COUNTED = "calls"
CALLS = 10
FATAL = 3  # the first server dies with this one in its hands
ANSWER_SECONDS = 2.0  # after which a beginner's client gives up


def bare_server(say: Connection, endpoint: str, fatal: int | None) -> None:
    with zmq.Context() as context, context.socket(zmq.REP) as socket:
        say.send(socket.bind(endpoint).addr)
        while True:
            number = int(socket.recv())
            if number == fatal:
                die()
            say.send(number)
            socket.send(b"%d" % (2 * number))


def bare(stage: Stage) -> Told:
    server = stage.start(bare_server, "tcp://127.0.0.1:0", FATAL)
    endpoint, took, servers = server.hear(), dict[int, float](), [server]
    with zmq.Context() as context, context.socket(zmq.REQ) as socket:
        socket.linger = 0
        socket.rcvtimeo = int(ANSWER_SECONDS * 1000)
        socket.connect(endpoint)
        for number in range(CALLS):
            begin = time.monotonic()
            try:
                socket.send(b"%d" % number)
                if number == FATAL:
                    servers[0].wait()
                    servers.append(stage.start(bare_server, endpoint, None))
                    servers[1].hear()
                assert int(socket.recv()) == 2 * number
                took[number] = time.monotonic() - begin
            except zmq.ZMQError:
                pass  # no answer in time; and then, each time: "cannot be accomplished in current state"
    return told(CALLS, took, [number for server in servers for number in server.rest()])


def mended_server(say: Connection, endpoint: str, fatal: int | None) -> None:
    with zmqkit.connect(endpoint) as mq:

        @mq.service("double")
        def double(number: int) -> int:
            if number == fatal:
                die()
            say.send(number)
            return 2 * number

        mq.serve(threads=1)


def mended(stage: Stage) -> Told:
    with zmqkit.Node("tcp://127.0.0.1:0") as node:
        took, servers = dict[int, float](), [stage.start(mended_server, node.endpoint, FATAL)]
        for number in range(CALLS):
            begin = time.monotonic()
            future = node.call_soon("double", number, timeout=60.0, idempotency_key=f"call-{number}")
            if number == FATAL:
                servers[0].wait()
                servers.append(stage.start(mended_server, node.endpoint, None))
            assert future.result() == 2 * number
            took[number] = time.monotonic() - begin
        return told(CALLS, took, [number for server in servers for number in server.rest()])


if __name__ == "__main__":
    play(COUNTED, bare, mended)
