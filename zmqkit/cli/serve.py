"""`zmqkit serve`: a command as a service. Each call runs it once: the body on its stdin, the answer from its stdout."""

from __future__ import annotations

import os
import select
import shutil
import signal
import subprocess
import tempfile
import time
from math import inf
from typing import IO, Any

import click

import zmqkit
from zmqkit.cli.bodies import parsed, printed
from zmqkit.cli.options import DURATION, connect_option, connected

LOOK_SECONDS = 0.05  # how soon a command learns that nobody waits for it any more
TERM_SECONDS = 2.0  # from SIGTERM to SIGKILL
OUTPUT_BYTES_MAX = 16 * 1024 * 1024  # an answer may have 1 MiB; who prints this much does not mean to answer
STDERR_BYTES_MAX = 32 * 1024  # the end of it is told


@click.command()
@click.argument("service")
@click.argument("command", nargs=-1, required=True, metavar="-- COMMAND...", type=click.UNPROCESSED)
@click.option("-r", "--raw", is_flag=True, help="Body and answer are text as it is, not JSON.")
@click.option("--threads", type=click.IntRange(min=1), default=4, show_default=True, metavar="N", help="Calls that run at a time.")
@click.option("--timeout", type=DURATION, metavar="DURATION", help="End a command that runs longer.  [default: when its caller gives up]")
@connect_option
def serve(service: str, command: tuple[str, ...], raw: bool, threads: int, timeout: float | None, endpoint: str) -> None:
    """Answer calls of SERVICE by running COMMAND for each: the body is a line of JSON on its stdin, the answer is JSON on its stdout.

    An exit code that is not 0 is the caller's RemoteError, with what the command wrote on stderr. When nobody waits for the answer any
    more, the command and what it started get SIGTERM, and two seconds later SIGKILL. SIGTERM or Ctrl-C lets what runs end; a second
    one ends at once.

    The command finds in its environment: ZMQKIT_SERVICE, ZMQKIT_KEY (the caller's idempotency key, or nothing: store it with the
    effect), ZMQKIT_DEADLINE (seconds since 1970; nothing if the caller waits for ever), and ZMQKIT_ATTEMPT (above 1 when a call with a
    key has outlived a worker).
    """
    if not shutil.which(command[0]):
        raise click.BadParameter(f"there is no command {command[0]!r} to run", param_hint="COMMAND")
    runs = Runs(command, raw, inf if timeout is None else timeout)
    with connected(endpoint) as mq:
        mq.service(service, runs.answer)
        click.echo(f"serving {service} at {endpoint}, {threads} calls at a time; Ctrl-C to end", err=True)
        try:
            mq.serve(threads=threads)
        finally:
            runs.kill()


class Runs:
    """The processes of one command that run now, one per call."""

    def __init__(self, command: tuple[str, ...], raw: bool, limit: float) -> None:
        self._command, self._raw, self._limit = command, raw, limit
        self._running: dict[int, None] = {}  # by pid, which is its group's number too

    def answer(self, body: Any) -> Any:
        """The service. Raises RemoteError."""
        call = zmqkit.current()
        # Files instead of pipes: nobody has to read while it runs, and what it leaves running holds no answer up.
        with tempfile.TemporaryFile() as stdin, tempfile.TemporaryFile() as stdout, tempfile.TemporaryFile() as stderr:
            stdin.write(printed(body, self._raw))
            stdin.seek(0)
            process = subprocess.Popen(
                self._command, stdin=stdin, stdout=stdout, stderr=stderr, env=environment(call), start_new_session=True
            )
            self._running[process.pid] = None
            try:
                why = self._watch(process, call, [stdout, stderr])
            finally:
                code = process.wait()
                del self._running[process.pid]
            said = tail(stderr)
            if said:
                click.echo(said, err=True)  # the command's own log, or why it failed
            if why:
                kind = "Cancelled" if call.cancelled else "CommandEnded"
                raise failure(call, kind, f"it was ended: {why}", said)
            if code:
                words = f"exit {code}" if code > 0 else f"killed by {signal.Signals(-code).name}"
                last = next((line.strip() for line in reversed(said.splitlines()) if line.strip()), "")
                raise failure(call, "CommandFailed", f"{words}: {last}" if last else words, said)
            stdout.seek(0)
            try:
                return parsed(stdout.read(), self._raw)
            except ValueError as error:
                raise failure(call, "NoJSON", f"the command printed {error}; serve it with -r for plain text", said) from None

    def _watch(self, process: subprocess.Popen[bytes], call: zmqkit.Current, output: list[IO[bytes]]) -> str:
        """Returns when it has ended: "" by itself, else why it was made to."""
        ends = time.monotonic() + self._limit
        fd = os.pidfd_open(process.pid)
        try:
            end = select.poll()
            end.register(fd, select.POLLIN)
            while not end.poll(LOOK_SECONDS * 1000):
                if why := self._reason(call, ends, output):
                    terminate(process)
                    return why
            return ""
        finally:
            os.close(fd)

    def _reason(self, call: zmqkit.Current, ends: float, output: list[IO[bytes]]) -> str:
        if call.cancelled:
            return "nobody waits for the answer any more"
        if call.remaining == 0.0:
            return "its caller's time is over"
        if time.monotonic() >= ends:
            return f"it ran for more than {self._limit:g} s"
        if any(os.fstat(file.fileno()).st_size > OUTPUT_BYTES_MAX for file in output):
            return f"it printed more than {OUTPUT_BYTES_MAX:,} bytes"
        return ""

    def kill(self) -> None:
        """What still runs when this process ends. After a first SIGTERM that is nothing."""
        for pid in list(self._running):
            send(pid, signal.SIGKILL)


def environment(call: zmqkit.Current) -> dict[str, str]:
    deadline = "" if call.deadline == inf else f"{call.deadline:.3f}"
    told = {"SERVICE": call.service, "KEY": call.key, "DEADLINE": deadline, "ATTEMPT": str(call.attempt)}
    return {**os.environ, **{f"ZMQKIT_{name}": value for name, value in told.items()}}


def terminate(process: subprocess.Popen[bytes]) -> None:
    """SIGTERM for it and all that it started, and SIGKILL for those who do not heed it."""
    kills = time.monotonic() + TERM_SECONDS
    there = send(process.pid, signal.SIGTERM)
    while there and time.monotonic() < kills:
        time.sleep(LOOK_SECONDS)
        process.poll()  # one that has ended counts as there until somebody takes notice
        there = send(process.pid, 0)
    if there:
        send(process.pid, signal.SIGKILL)


def send(group: int, number: int) -> bool:
    """False: nobody is left of that group."""
    try:
        os.killpg(group, number)
    except ProcessLookupError:
        return False
    return True


def tail(stderr: IO[bytes]) -> str:
    """The end of what it wrote."""
    stderr.seek(max(0, stderr.seek(0, os.SEEK_END) - STDERR_BYTES_MAX))
    return stderr.read().decode(errors="replace").rstrip("\n")


def failure(call: zmqkit.Current, kind: str, text: str, said: str) -> zmqkit.RemoteError:
    click.echo(f"zmqkit: {call.service}: {text}", err=True)
    return zmqkit.RemoteError(kind, text, said)
