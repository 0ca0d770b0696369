"""Stranger at the door: peers that speak another protocol, or half of one.

ZeroMQ itself turns away what is no ZeroMQ: a browser, a port scanner, a handshake that stops in the middle. But any ZeroMQ socket comes in,
and its frames go straight to the application: a server that unpacks what it expects falls over the first message of another shape, and
with it the service of all others. Here what is not understood is counted and dropped. (Who may come in at all is another matter: nobody
shows a key in this play.)
"""

from __future__ import annotations

import json
import socket as tcp
import time
from contextlib import ExitStack
from multiprocessing.connection import Connection
from urllib.parse import urlsplit

import zmq

import zmqkit
from patterns.stage import Stage, Told, play, told, until

COUNTED = "calls"
CALLS = 10
KNOCK_AT = 5
ANSWER_SECONDS = 1.0
HALF_A_HANDSHAKE = b"\xff\0\0\0\0\0\0\0\1\x7f\3"


def strangers(endpoint: str, guests: ExitStack, context: zmq.Context[zmq.Socket[bytes]]) -> None:
    """Three of them; they stay until `guests` ends."""
    url = urlsplit(endpoint)
    for words in (b"GET / HTTP/1.1\r\nHost: example.org\r\n\r\n", HALF_A_HANDSHAKE):
        guests.enter_context(tcp.create_connection((url.hostname, url.port))).sendall(words)
    dealer = guests.enter_context(context.socket(zmq.DEALER))
    dealer.linger = 0
    dealer.connect(endpoint)
    dealer.send(b"HELLO")


def bare_server(say: Connection) -> None:
    with zmq.Context() as context, context.socket(zmq.ROUTER) as socket:
        say.send(socket.bind("tcp://127.0.0.1:0").addr)
        while True:
            peer, empty, body = socket.recv_multipart()
            socket.send_multipart([peer, empty, json.dumps(2 * json.loads(body)).encode()])


def bare(stage: Stage) -> Told:
    server, took = stage.start(bare_server), dict[int, float]()
    endpoint = server.hear()
    with ExitStack() as guests, zmq.Context() as context, context.socket(zmq.REQ) as socket:
        socket.linger = 0
        socket.rcvtimeo = int(ANSWER_SECONDS * 1000)
        socket.connect(endpoint)
        for number in range(CALLS):
            if number == KNOCK_AT:
                strangers(endpoint, guests, context)
                server.wait()
            begin = time.monotonic()
            try:
                socket.send(json.dumps(number).encode())
                assert json.loads(socket.recv()) == 2 * number
                took[number] = time.monotonic() - begin
            except zmq.ZMQError:
                pass
        guests.close()
    return told(CALLS, took)


def mended(stage: Stage) -> Told:
    took = dict[int, float]()
    with zmqkit.Node("tcp://127.0.0.1:0") as node, ExitStack() as guests, zmq.Context() as context:
        node.service("double", lambda number: 2 * number)
        node.serve(block=False)
        with zmqkit.connect(node.endpoint) as mq:
            for number in range(CALLS):
                if number == KNOCK_AT:
                    strangers(node.endpoint, guests, context)
                    until(lambda: node.dropped)  # it has counted the stranger
                begin = time.monotonic()
                assert mq.call("double", number, timeout=60.0) == 2 * number
                took[number] = time.monotonic() - begin
        guests.close()
    return told(CALLS, took)


if __name__ == "__main__":
    play(COUNTED, bare, mended)
