"""Fuzz the decoder: whatever bytes arrive, it is a command or Malformed. Seeded; `-m gate` runs it for longer."""

from __future__ import annotations

import random
from time import thread_time

import pytest
from wire_values import COMMANDS, as_bytes

from zmqkit import framing

TOKENS = [
    b"\xff", b"\0", b"\x90", b"\x80", b"\xc0", b"\xc1", b"\xc3", b"\xa0", b"\x91\x91\x91", b"\xdc\xff\xff", b"\xdd\xff\xff\xff\xff",
    b"\xdf\xff\xff\xff\xff", b"\xcf" + b"\xff" * 8, b"\xd3\x80" + bytes(7), b"\xcb\x7f\xf0" + bytes(6), b"\xcb\x7f\xf8" + bytes(6),
    b"\xd4\x01\x00", b"\xc7\xff\x01", b"\xd9\x80\xff", b"\xc4\x10" + bytes(16), b"Z1", b"\x00\x20", b"\xff\xff",
]  # fmt: skip
FRAMES_A_SECOND = 10_000  # far below what any machine does: one slow frame in a hundred would be noticed


def mutate(rng: random.Random, frames: list[bytes]) -> list[bytes]:
    frames = list(frames)
    for _ in range(rng.randint(1, 4)):
        index = rng.randrange(len(frames)) if frames else 0
        data = bytearray(frames[index]) if frames else bytearray()
        place = rng.randrange(min(len(data), 200) + 1)
        match rng.randrange(8):
            case 0:
                data[place : place + 1] = bytes([rng.randrange(256)])
            case 1:
                del data[place : place + rng.randint(1, 16)]
            case 2:
                data[place:place] = rng.randbytes(rng.randint(1, 16))
            case 3 | 4:
                token = rng.choice(TOKENS)
                data[place : place + rng.choice([0, 1, len(token)])] = token
            case 5:
                data[2:3] = bytes([rng.randrange(20)])
            case 6:
                frames.insert(index, rng.choice([b"", b"\x80", b"\x90", bytes(data), rng.randbytes(8)]))
                continue
            case _:
                del frames[index : index + 1]
                continue
        if len(data) >= 5 and rng.random() < 0.3:
            data[3:5] = max(0, len(data) - 5).to_bytes(4, "little")[:2]  # so that what was changed is looked at
        frames[index : index + 1] = [bytes(data)]
    return frames


def fuzz(seed: int, rounds: int) -> tuple[int, int]:
    """(commands, malformed). Anything else ends it, and names the frames."""
    rng, good, bad = random.Random(seed), 0, 0
    originals = [as_bytes(framing.encode(command)) for command in COMMANDS.values()]
    for _ in range(rounds):
        frames = mutate(rng, rng.choice(originals))
        try:
            command = framing.decode(frames)
        except framing.Malformed:
            bad += 1
            continue
        except BaseException as error:
            raise AssertionError(f"{error!r} from {[frame.hex() for frame in frames]}") from error
        good += 1
        again = as_bytes(framing.encode(command))  # bytes are compared: a NaN in arguments is a value like any other, but equals none
        assert as_bytes(framing.encode(framing.decode(again))) == again, [frame.hex() for frame in frames]
    return good, bad


def test_whatever_arrives_is_a_command_or_malformed() -> None:
    started = thread_time()
    good, bad = fuzz(seed=1, rounds=30_000)
    assert good > 500 and bad > 10_000, "the mutations are too wild or too tame to prove anything"
    assert thread_time() - started < 30_000 / FRAMES_A_SECOND * 2


def test_noise_is_malformed() -> None:
    rng = random.Random(2)
    for _ in range(5_000):
        with pytest.raises(framing.Malformed):
            framing.decode([rng.randbytes(rng.randrange(100)) for _ in range(rng.randrange(5))])


@pytest.mark.gate
@pytest.mark.parametrize("seed", range(100, 120))
@pytest.mark.timeout(300)
def test_whatever_arrives_is_a_command_or_malformed_for_long(seed: int) -> None:
    fuzz(seed, rounds=200_000)
