"""_probe.py: what an answer tells, how much of it is heard, and how long."""

from __future__ import annotations

import errno

import pytest
import trio
import trio.testing

from trishake import AlertCode, Cause
from trishake._probe import Answer, Foreign, asking_for_versions, first_answer, hear, recognize
from trishake_protocol.limits import MAX_ALERT_DETAIL
from trishake_protocol.messages import Alert, FrameType, encode_frame

TAG = bytes(8)
SECONDS = 3
TLS_ALERT = bytes.fromhex("15030100020228")
VERSIONS = encode_frame(FrameType.ALERT, Alert(AlertCode.UNSUPPORTED_VERSION, versions=(1, 1)).encode())


class Server:
    """Answers each connection by what its opening begins with; holds it open, but where it answers None.

    Those who say nothing are answered by the key b"".
    """

    def __init__(self, nursery: trio.Nursery, answers: dict[bytes, bytes | None]) -> None:
        self.nursery = nursery
        self.answers = answers
        self.streams: list[trio.abc.Stream] = []
        """Our ends."""

    async def connect(self) -> trio.abc.Stream:
        ours, theirs = trio.testing.memory_stream_pair()
        self.streams.append(ours)
        self.nursery.start_soon(self.serve, theirs)
        return ours

    async def serve(self, stream: trio.abc.Stream) -> None:
        opening = b""
        with trio.move_on_after(0.01):
            opening = await stream.receive_some()
        for beginning, answer in sorted(self.answers.items(), reverse=True):
            if opening.startswith(beginning) and (beginning or not opening):
                if answer is None:
                    await stream.aclose()
                else:
                    await stream.send_all(answer)
                return

    async def assert_left(self) -> None:
        """Every connection is closed on our side."""
        for stream in self.streams:
            with pytest.raises(trio.ClosedResourceError):
                await stream.receive_some()


# --- an answer ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "is_alert"),
    [
        (VERSIONS, True),
        (VERSIONS + b"more", True),
        (VERSIONS[:-1], False),
        (VERSIONS[:2], False),
        (b"", False),
        (b"\x01" + VERSIONS[1:], False),
        (bytes((FrameType.ALERT,)) + bytes(2), False),
        (encode_frame(FrameType.ALERT, b"\x05" + bytes(MAX_ALERT_DETAIL + 1)), False),
    ],
    ids=["an ALERT", "and more", "not all", "its head", "nothing", "another frame", "an empty one", "too long"],
)
def test_only_a_whole_alert_within_its_bounds_is_one(data: bytes, is_alert: bool) -> None:
    alert = Answer(data, None).alert
    assert (alert is not None) == is_alert
    assert alert is None or alert.versions == (1, 1)


@pytest.mark.parametrize(
    ("data", "shown"),
    [
        (b"SSH-2.0-x\r\nmore", "SSH-2.0-x"),
        (b"\x1b[2J\xff", r"\x1b[2J\xff"),
        (b"a" * 60 + b"\n", "a" * 60),
        (b"a" * 61, "a" * 60 + "…"),
        (b"", ""),
    ],
)
def test_what_is_shown_of_it_is_one_line_cut_and_escaped(data: bytes, shown: str) -> None:
    assert Answer(data, None).shown == shown


# --- hearing --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "heard", "ended"),
    [(b"abc", b"abc", Cause.TIMEOUT), (b"x" * 9999, b"x" * 4096, None), (None, b"", Cause.CLOSED)],
    ids=["too little", "too much", "the end"],
)
async def test_it_is_heard_up_to_a_limit_and_for_a_time(
    autojump_clock: trio.testing.MockClock,
    nursery: trio.Nursery,
    answer: bytes | None,
    heard: bytes,
    ended: Cause | None,
) -> None:
    server = Server(nursery, {b"hello": answer})
    said = await hear(server.connect, b"hello", SECONDS, lambda _: False)
    assert said == Answer(heard, ended)
    assert trio.current_time() == pytest.approx(SECONDS if ended is Cause.TIMEOUT else 0, abs=0.1)
    await server.assert_left()


async def test_a_reset_is_an_answer_too() -> None:
    ours, _ = trio.testing.memory_stream_pair()

    async def reset() -> None:
        raise trio.BrokenResourceError

    async def connect() -> trio.abc.Stream:
        ours.receive_stream.receive_some_hook = reset
        return ours

    assert await hear(connect, b"hello", SECONDS, lambda _: False) == Answer(b"", Cause.RESET)


@pytest.mark.parametrize("answer", [VERSIONS, b"HTTP/1.1 400 Bad Request\r\n\r\n", TLS_ALERT])
async def test_a_preface_has_its_answer_as_soon_as_that_tells_enough(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery, answer: bytes
) -> None:
    preface = asking_for_versions(TAG)
    said = await first_answer(Server(nursery, {preface.encode(): answer}).connect, preface, SECONDS)
    assert said == Answer(answer, None)
    assert trio.current_time() < 1


async def test_an_alert_in_parts_is_waited_for(autojump_clock: trio.testing.MockClock) -> None:
    ours, theirs = trio.testing.memory_stream_pair()

    async def connect() -> trio.abc.Stream:
        return ours

    async def answer() -> None:
        for byte in VERSIONS:
            await trio.sleep(0.1)
            await theirs.send_all(bytes((byte,)))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(answer)
        said = await first_answer(connect, asking_for_versions(TAG), SECONDS)
    assert said == Answer(VERSIONS, None)


# --- recognizing ----------------------------------------------------------------------------------------

PREFACE = asking_for_versions(TAG).encode()[:4]


@pytest.mark.parametrize(
    ("answers", "foreign", "at_once"),
    [
        ({b"": b"SSH-2.0-x\r\n"}, Foreign("SSH", "SSH-2.0-x"), True),
        ({b"HEAD": b"HTTP/1.0 200 OK\r\n"}, Foreign("HTTP", "HTTP/1.0 200 OK"), False),
        ({b"\x16\x03": TLS_ALERT}, Foreign("TLS", ""), True),
        ({b"HEAD": b"HTTP/1.1 400 speak TLS\r\n", b"\x16\x03": TLS_ALERT}, Foreign("TLS", ""), True),
        ({PREFACE: VERSIONS}, Foreign("Trishake", ""), True),
        ({b"HEAD": b"what?\r\n"}, Foreign(None, "what?"), False),
        ({}, None, False),
        ({b"": None, b"HEAD": None, b"\x16\x03": None, PREFACE: None}, None, True),
    ],
    ids=["SSH", "HTTP", "TLS", "TLS that answers HTTP", "Trishake", "something", "silence", "hangs up"],
)
async def test_who_is_there_is_told_by_what_he_answers_to(
    autojump_clock: trio.testing.MockClock,
    nursery: trio.Nursery,
    answers: dict[bytes, bytes | None],
    foreign: Foreign | None,
    at_once: bool,
) -> None:
    server = Server(nursery, answers)
    assert await recognize(server.connect, "bob.test", TAG, SECONDS) == foreign
    assert (trio.current_time() < 1) == at_once
    assert len(server.streams) == 4
    await server.assert_left()


@pytest.mark.parametrize(
    "error", [OSError(errno.ECONNREFUSED, ""), trio.TooSlowError(), trio.BrokenResourceError()]
)
async def test_a_connection_that_fails_leaves_the_answers_of_the_others(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery, error: Exception
) -> None:
    server = Server(nursery, dict.fromkeys((b"", b"HEAD", b"\x16\x03", PREFACE), b"SSH-2.0-x\r\n"))
    errors = [error]

    async def connect() -> trio.abc.Stream:
        if errors:
            raise errors.pop()
        return await server.connect()

    assert await recognize(connect, None, TAG, SECONDS) == Foreign("SSH", "SSH-2.0-x")
