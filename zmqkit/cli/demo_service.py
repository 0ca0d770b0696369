"""One worker process of `zmqkit demo calls`: `python -m zmqkit.cli.demo_service ENDPOINT LEDGER DIARY`.

It is what a user would write: two services whose effect is a row in a database. An order is called with a key, which is stored in
the row, in a unique column: a second execution finds it and has no second effect. A visit is called without, and nothing but the
call itself keeps it from being counted twice.

Beside that it keeps a diary: one line before each call is begun, written straight to the file, so that it is still there after a
kill -9. The diaries tell afterwards which call ran twice.
"""

from __future__ import annotations

import sqlite3
import sys
import threading
import time
from typing import Any

import zmqkit
from zmqkit.cli.notes import Notes

ORDER, VISIT = "demo.order", "demo.visit"
THREADS = 8
BUSY_SECONDS = 30.0  # one writer at a time: the others wait
ROWS = "CREATE TABLE orders (key TEXT UNIQUE, number INTEGER); CREATE TABLE visits (number INTEGER)"


class Ledger(threading.local):
    """The database, opened once by each thread."""

    def __init__(self, path: str) -> None:
        self.db = sqlite3.connect(path, timeout=BUSY_SECONDS, isolation_level=None)  # each row is a transaction
        self.db.execute("PRAGMA synchronous = OFF")  # processes are killed here, no power is cut


def make(path: str) -> None:
    with sqlite3.connect(path) as db:
        db.execute("PRAGMA journal_mode = WAL")
        db.executescript(ROWS)


def rows(path: str, table: str) -> list[int]:
    with sqlite3.connect(path, timeout=BUSY_SECONDS) as db:
        return [number for (number,) in db.execute(f"SELECT number FROM {table}")]


def serve(endpoint: str, path: str, diary: Notes) -> None:
    ledger = Ledger(path)

    def begin(body: dict[str, Any]) -> None:
        diary.write(body["number"], zmqkit.current().token, f"{time.time():.6f}")
        time.sleep(body["seconds"])  # work before the effect, and after it: a kill may meet either

    with zmqkit.connect(endpoint, timeout=30.0) as mq:

        @mq.service(ORDER)
        def order(body: dict[str, Any]) -> int:
            begin(body)
            ledger.db.execute("INSERT INTO orders VALUES (?, ?) ON CONFLICT DO NOTHING", (zmqkit.current().key, body["number"]))
            time.sleep(body["seconds"])
            return body["number"]  # type: ignore[no-any-return]

        @mq.service(VISIT)
        def visit(body: dict[str, Any]) -> int:
            begin(body)
            ledger.db.execute("INSERT INTO visits VALUES (?)", (body["number"],))
            time.sleep(body["seconds"])
            return body["number"]  # type: ignore[no-any-return]

        mq.serve(threads=THREADS)


if __name__ == "__main__":
    node, database, notes = sys.argv[1:]
    serve(node, database, Notes(notes))
