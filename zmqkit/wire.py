"""ZMK1, the link protocol: its commands as values, its codes and its limits. `framing` turns them into bytes and back.

docs/wire.md is the specification.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Any, NamedTuple

from zmqkit.parcel import PARCEL_BYTES_MAX, Parcel

VERSION = 1
MAGIC = b"Z1"
HEADER_BYTES_MAX = 8 * 1024
INLINE_BYTES_MAX = 4 * 1024  # one frame costs less than three below this (call −30 %, put −11 %)
ENTRIES_MAX = 512
NAME_BYTES_MAX = 255
TEXT_CHARS_MAX = 2000
BLOB_BYTES_MAX = 64 * 1024
ARGUMENTS_BYTES_MAX = 64 * 1024  # of an ASK: room for 4,096 numbers and every policy there is
FRAME_BYTES_MAX = PARCEL_BYTES_MAX + 64 * 1024  # both sides' sockets refuse larger ones, so no encoder may make one
VERSIONS_MAX = 16
REPLY_RANGES_MAX = 256  # their list is part of a header
ATTEMPTS_MAX = 1000


class Kind(IntEnum):
    HELLO = 1
    WELCOME = 2
    NOSESSION = 3
    PUT = 4
    CONFIRM = 5
    REFUSED = 6
    READY = 7
    ECHO = 8
    LEASE = 9
    DONE = 10
    ANSWER = 11
    BACK = 12
    SAVE = 13
    ASK = 14
    TOLD = 15
    BYE = 16
    # Reserved for transactions (17, 18).
    CALL = 19
    CANCEL = 20
    PART = 21
    REPLY = 22
    SUB = 23
    UNSUB = 24
    SEEN = 25
    POS = 26
    RESET = 27
    CHUNK = 28
    LIVE = 29
    AT = 30
    MORE = 31


class Code(IntEnum):
    """Why something was refused."""

    FULL = 1
    DISK_FULL = 2
    TOO_LARGE = 3
    STOPPING = 4
    DELETED = 5
    STALE = 6
    QUOTA = 7
    FORBIDDEN = 8
    MAYBE_EXECUTED = 9
    MALFORMED = 10
    VERSION = 11
    WAIT = 12  # full, and the queue's policy is that its producers wait: offer again under the same numbers


class Verdict(IntEnum):
    """What became of a message that a DONE named."""

    OK = 0
    STALE = 1  # definite: not settled by this DONE
    SETTLED = 2  # settled, perhaps by this DONE: the node cannot tell


class BackKind(IntEnum):
    NACK = 0  # failed: counts an attempt, waits for the backoff or `delay`
    SPLIT = 1  # a failed batch comes again one by one: counts nothing, each message alone
    REJECT = 2  # dead at once
    SNOOZE = 3  # later, counts nothing
    UNSTARTED = 4  # nobody began: counts nothing


class Status(IntEnum):
    """What became of one call. The body of the first three is the worker's, of the others a text."""

    OK = 0  # the service's value
    ERROR = 1  # the handler raised: [kind, message, traceback]
    END = 2  # the end of a stream: how many parts there were
    NO_WORKER = 3  # not dispatched, and nobody serves that name
    UNDISPATCHED = 4  # not dispatched in time
    MAYBE_EXECUTED = 5  # dispatched, and nobody knows more


class Start(IntEnum):
    """Where a subscription begins."""

    SNAPSHOT = 0  # with what holds now
    NOW = 1  # with the next update
    BEGINNING = 2  # with the oldest update that is kept
    POSITION = 3  # behind this one, if it still means what it meant
    SEQ = 4  # behind this number of the node's present count
    TIME = 5  # with the first update that is kept and not older


class Hello(NamedTuple):
    versions: list[int]
    client: bytes
    link: int
    node: bytes  # the last one known, b"" if none
    epoch: int


class Welcome(NamedTuple):
    version: int
    node: bytes
    epoch: int
    beat: float
    patience: float
    limits: dict[str, Any]


class NoSession(NamedTuple):
    """"I do not know this link": say HELLO on a new one."""


class Put(NamedTuple):
    queue: str  # or the marked name of a topic
    first: int  # number in the stream (client, queue) of the first message
    count: int  # type: ignore[assignment]
    base: int  # lowest number neither confirmed nor refused
    parcel: Parcel


class Confirm(NamedTuple):
    queue: str
    first: int
    count: int  # type: ignore[assignment]
    qseq: int  # the first message's number in its queue
    durability: str


class Refused(NamedTuple):
    command: int
    queue: str
    first: int
    count: int  # type: ignore[assignment]
    code: int
    retry_after: float
    text: str


class Window(NamedTuple):
    queue: str
    messages: int  # absolute: how many may be open at once
    lease: float


class Held(NamedTuple):
    token: int
    open: int  # running, waiting or unanswered messages
    seconds: float  # lease length wanted; 0: the queue's


class Ready(NamedTuple):
    beat: int
    seen: int  # highest token received on any link
    windows: list[Window]  # into queues, and into services by their marked name
    replied: int  # every REPLY up to this serial has come
    held: list[Held]


class Echo(NamedTuple):
    beat: int
    stopping: bool
    revoked: list[int]


class Slice(NamedTuple):
    """A parcel that the driver reads from the log at the moment of sending."""

    position: int
    offset: int
    count: int  # type: ignore[assignment]
    columns: dict[str, list[Any]] | None = None  # what the queue adds: error, saved


class Terms(NamedTuple):
    """What a lease of calls says beside that of messages."""

    seconds: float  # until the calls' deadline, counted from the arrival of `beat`: none is started after it
    key: str  # to store with the effect; "" if there is none
    parts: int  # of a stream: how many may be sent for a start; 0: one answer is wanted
    user: str = ""  # the name of the user who called, as the node knows it


class Lease(NamedTuple):
    queue: str  # or the marked name of a service
    token: int
    qseq: int
    count: int  # type: ignore[assignment]
    attempt: int
    lease: float
    grace: float
    beat: int  # the newest beat of that client the node had seen: when the lease began, in the client's own time
    terms: Terms | None  # of calls
    parcel: Parcel | Slice


class Done(NamedTuple):
    wait: bool  # somebody waits for the answer: sync now
    ranges: list[tuple[int, int, int]]  # token, offset, count


class Answer(NamedTuple):
    ranges: list[tuple[int, int, int, int]]  # token, offset, count, verdict


class Back(NamedTuple):
    token: int
    offset: int
    count: int  # type: ignore[assignment]
    kind: int
    delay: float  # < 0: the queue's backoff decides
    reason: str


class Save(NamedTuple):
    token: int
    offset: int
    blob: bytes


class Ask(NamedTuple):
    number: int
    base: int
    verb: str
    arguments: dict[str, Any]


class Told(NamedTuple):
    number: int
    result: Any


class Call(NamedTuple):
    """Calls of one service under one deadline: numbers first, first + 1, …"""

    service: str
    first: int  # of the caller's numbers, over all services
    count: int  # type: ignore[assignment]
    seconds: float  # left until the deadline
    attempts: int  # at most so many workers one after the other; 1: the end, if nobody serves the name now
    epoch: int  # of the node, when these calls were sent first
    key: str  # idempotency key of a single call, or ""
    parts: int  # of a stream: how many may come for a start; 0: one answer is wanted
    replied: int  # every REPLY up to this serial has come
    parcel: Parcel


class Cancel(NamedTuple):
    """Nobody waits for these calls any more."""

    number: int  # the caller's of the first; to a worker: the token of the lease
    offset: int  # 0; to a worker: of the first in the lease
    count: int  # type: ignore[assignment]


class More(NamedTuple):
    """Flow control of a stream: so many parts may be sent in all, and the first `got` have arrived for good."""

    number: int  # as in CANCEL
    offset: int
    parts: int
    got: int


class Part(NamedTuple):
    """Parts of one streamed answer, numbered from 1."""

    number: int  # as in CANCEL
    offset: int
    first: int
    count: int  # type: ignore[assignment]
    parcel: Parcel


class Reply(NamedTuple):
    """The ends of calls; their bodies in the order of the ranges."""

    serial: int  # 1, 2, 3… of the node's REPLYs to this caller, in this epoch; 0 from a worker
    ranges: list[tuple[int, int, int, int]]  # number or token, offset, count, status
    count: int  # type: ignore[assignment]  # of all ranges
    parcel: Parcel


class Sub(NamedTuple):
    """A subscription begins, or goes on over a new link. Its `number` is new each time: what still comes for an older one is not for it."""

    number: int
    topic: str
    prefixes: list[str]  # of keys; "" is all
    fresh: list[str]  # of these a snapshot is wanted, though the rest goes on where it was
    start: int
    epoch: int  # of POSITION
    seq: int  # of POSITION and SEQ
    time: float  # of TIME: Unix time
    name: str  # of a position that the node keeps, and that comes before `start`; "": none
    window: int  # bytes of updates that may be under way


class Unsub(NamedTuple):
    number: int


class Seen(NamedTuple):
    """Flow control: so many bytes of updates have been taken in all, under this number."""

    number: int
    taken: int


class Pos(NamedTuple):
    """The application has taken all up to here: keep that under the name of this subscription."""

    number: int
    epoch: int
    seq: int


class Scope(IntEnum):
    """Of which keys a snapshot follows."""

    NONE = 0
    FRESH = 1  # those that the SUB called so: it goes on where it was
    ALL = 2  # what was known before is no base any more


class Reset(NamedTuple):
    """Where a subscription goes on, in the node's present count. A snapshot, if there is one, follows in CHUNKs, and an AT ends it."""

    number: int
    epoch: int
    seq: int  # the next update has a higher one
    first: int  # what is missing, in the count that the subscriber named; first > last: nothing
    last: int
    scope: int


class Chunk(NamedTuple):
    """A part of the state, as it is behind update `seq`."""

    number: int
    seq: int
    count: int  # type: ignore[assignment]  # 1: all pairs are one message
    parcel: Parcel


class Live(NamedTuple):
    """Updates first … first + span - 1, as far as they match; `prev` is the last number before them that this link has told of."""

    number: int
    prev: int
    first: int
    span: int
    mask: bytes  # bit i, little endian: update first + i is here; b"": all are
    count: int  # type: ignore[assignment]
    parcel: Parcel


class At(NamedTuple):
    """All that matches has been told up to here."""

    number: int
    epoch: int
    seq: int


class Bye(NamedTuple):
    """The last word on a link."""


Command = (
    Hello | Welcome | NoSession | Put | Confirm | Refused | Ready | Echo | Lease | Done | Answer | Back | Save | Ask | Told | Bye
    | Call | Cancel | More | Part | Reply | Sub | Unsub | Seen | Pos | Reset | Chunk | Live | At
)
SERVICE_MARK = "\0"  # begins the name of a service where names of queues stand too; no queue's name begins so
TOPIC_MARK = "\1"  # begins the name of a topic in PUT, CONFIRM and REFUSED
PREFIXES_MAX = 64  # of one subscription
FRAME_COST = 64  # bytes of a window that CHUNK and LIVE take beside their body
