"""Link: every fault does what it says, at every byte that matters, to both sides, in memory and over TCP."""

from __future__ import annotations

import math
import socket as stdlib_socket
import struct
from collections.abc import Callable
from typing import Any

import pytest
import trio

from trishake._memory import MemoryStream
from trishake.testing import Link, VirtualNetwork

from .conftest import Wire, both

MEGABYTE = bytes(range(256)) * 4096


async def read_all(stream: trio.abc.ReceiveStream) -> tuple[bytes, str]:
    """What came, and how it ended: `end`, or `broken`."""
    received = bytearray()
    try:
        while data := await stream.receive_some():
            received += data
    except trio.BrokenResourceError:
        return bytes(received), "broken"
    return bytes(received), "end"


async def send_until_told(stream: trio.abc.SendStream, *, most: int = 2**22) -> int:
    """How many bytes it took until the sender was told that nobody reads."""
    sent = 0
    try:
        while sent < most:
            await stream.send_all(bytes(4096))
            sent += 4096
    except trio.BrokenResourceError:
        return sent
    raise AssertionError(f"the sender of {sent} bytes was not told that nobody reads")


# --- data is what was sent --------------------------------------------------------------------------------

MILD: dict[str, Callable[[Link], Link]] = {
    "nothing": lambda link: link,
    "a delay": lambda link: link.delay(0.5),
    "a delay that varies": lambda link: link.delay(0.01, spread=0.3),
    "bandwidth": lambda link: link.bandwidth(2_000_000),
    "large pieces": lambda link: link.split(5000),
    "all of them": lambda link: link.delay(0.01, spread=0.01).bandwidth(10**7).split(100_000),
}


@both
@pytest.mark.parametrize("mild", MILD)
async def test_a_megabyte_each_way_arrives_whole_and_in_order(
    network: VirtualNetwork, wire: Wire, mild: str
) -> None:
    MILD[mild](network.link("ada", "bob"))
    MILD[mild](network.link("bob", "ada"))
    ends = await wire()
    received: list[tuple[bytes, str]] = []

    async def send(stream: trio.abc.HalfCloseableStream) -> None:
        await stream.send_all(MEGABYTE)
        await stream.send_eof()

    async def receive(stream: trio.abc.ReceiveStream) -> None:
        received.append(await read_all(stream))

    async with trio.open_nursery() as nursery:
        for end in ends:
            nursery.start_soon(send, end)
            nursery.start_soon(receive, end)
    assert received == [(MEGABYTE, "end")] * 2


@both
async def test_small_pieces_arrive_whole_and_in_order(network: VirtualNetwork, wire: Wire) -> None:
    network.link("ada", "bob").split()
    here, there = await wire()
    await here.send_all(MEGABYTE[:3000])
    await here.send_eof()
    assert await read_all(there) == (MEGABYTE[:3000], "end")


async def test_pieces_are_no_larger_than_was_said(network: VirtualNetwork, wire: Wire) -> None:
    network.link("ada", "bob").split(7)
    here, there = await wire()
    await here.send_all(bytes(100))
    await here.send_eof()
    sizes = [len(data) async for data in there]
    assert sizes == [7] * 14 + [2]


async def test_pieces_by_the_seed_have_1_to_64_bytes(network: VirtualNetwork, wire: Wire) -> None:
    network.link("ada", "bob").split()
    here, there = await wire()
    await here.send_all(bytes(20_000))
    await here.send_eof()
    sizes = [len(data) async for data in there]
    assert sum(sizes) == 20_000
    assert (min(sizes), max(sizes)) == (1, 64)


@both
async def test_a_half_close_passes_and_the_other_half_goes_on(network: VirtualNetwork, wire: Wire) -> None:
    network.link("ada", "bob").delay(1)
    here, there = await wire()
    await here.send_all(b"that is all")
    await here.send_eof()
    assert await read_all(there) == (b"that is all", "end")
    await there.send_all(b"and here is more")
    await there.aclose()
    assert await read_all(here) == (b"and here is more", "end")


@both
async def test_a_reader_who_does_not_read_holds_the_sender_back(network: VirtualNetwork, wire: Wire) -> None:
    here, there = await wire()
    sent = 0
    with trio.move_on_after(60):
        while True:
            await here.send_all(bytes(16 * 1024))
            sent += 16 * 1024
    # What a line holds, and in TCP what four kernel buffers do.
    assert sent <= (512 * 1024 if network.over == "memory" else 32 * 2**20)
    received = 0
    while received < sent:
        received += len(await there.receive_some())


@both
async def test_whoever_writes_to_one_who_has_left_is_told(network: VirtualNetwork, wire: Wire) -> None:
    here, there = await wire()
    await there.aclose()
    assert await read_all(here) == (b"", "end")
    await send_until_told(here)


# --- when it arrives --------------------------------------------------------------------------------------


async def seconds_of(stream: trio.abc.ReceiveStream, count: int) -> float:
    """When the last of so many bytes is there, on the clock of the test."""
    while count > 0:
        data = await stream.receive_some(count)
        assert data
        count -= len(data)
    return trio.current_time()


@both
async def test_what_is_sent_arrives_after_the_delay(network: VirtualNetwork, wire: Wire) -> None:
    here, there = await wire()
    network.link("ada", "bob").delay(3)
    began = trio.current_time()
    await here.send_all(b"x")
    assert await seconds_of(there, 1) - began == pytest.approx(3)
    await there.send_all(b"y")
    assert await seconds_of(here, 1) - began == pytest.approx(3)  # the way back has none


@both
async def test_a_dialer_waits_for_the_way_there_and_the_way_back(network: VirtualNetwork, wire: Wire) -> None:
    network.link("ada", "bob").delay(3).reverse.delay(2)
    began = trio.current_time()
    await wire()
    assert trio.current_time() - began == pytest.approx(5)


@both
@pytest.mark.parametrize(("rate", "size"), [(1000, 1000), (10, 15), (0.5, 3), (10**9, 10**5)])
async def test_bandwidth_says_when_the_last_byte_arrives(
    network: VirtualNetwork, wire: Wire, rate: float, size: int
) -> None:
    network.link("ada", "bob").bandwidth(rate)
    here, there = await wire()
    began = trio.current_time()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(here.send_all, bytes(size))
        assert await seconds_of(there, size) - began == pytest.approx(size / rate, abs=1e-5)


async def test_a_change_of_bandwidth_is_felt_at_once(network: VirtualNetwork, wire: Wire) -> None:
    link = network.link("ada", "bob").bandwidth(1000)
    here, there = await wire()
    began = trio.current_time()
    await here.send_all(bytes(20_000))
    assert await seconds_of(there, 5000) - began == pytest.approx(5)
    link.bandwidth(100)
    assert await seconds_of(there, 100) - began == pytest.approx(5.5, abs=0.06)  # 50 bytes were on their way
    link.heal()
    assert await seconds_of(there, 14_900) - began == pytest.approx(5.55, abs=0.06)


async def test_the_delay_and_the_bandwidth_add_up(network: VirtualNetwork, wire: Wire) -> None:
    here, there = await wire()
    network.link("ada", "bob").delay(2).bandwidth(1000)
    began = trio.current_time()
    await here.send_all(bytes(5000))
    assert await seconds_of(there, 5000) - began == pytest.approx(7)


async def test_a_delay_that_shrinks_lets_nothing_overtake(network: VirtualNetwork, wire: Wire) -> None:
    link = network.link("ada", "bob")
    here, there = await wire()
    began = trio.current_time()
    link.delay(10)
    await here.send_all(b"first ")
    await trio.sleep(1)
    link.delay(0)
    await here.send_all(b"second")
    assert await seconds_of(there, 12) - began == pytest.approx(10)


async def test_a_delay_that_varies_stays_within_its_spread(network: VirtualNetwork, wire: Wire) -> None:
    here, there = await wire()
    network.link("ada", "bob").delay(1, spread=2)
    taken: list[float] = []
    for _ in range(50):
        began = trio.current_time()
        await here.send_all(b"x")
        taken.append(await seconds_of(there, 1) - began)
    assert 1 <= min(taken) < 1.5
    assert 2.5 < max(taken) <= 3


# --- how it ends ------------------------------------------------------------------------------------------

POSITIONS = [0, 1, 1000, 100_000]
SENT = MEGABYTE[:200_000]


async def send_what_goes(stream: trio.abc.SendStream, heard: list[str] | None = None) -> None:
    try:
        await stream.send_all(SENT)
    except trio.BrokenResourceError:
        if heard is not None:
            heard.append("broken")


@both
@pytest.mark.parametrize("after", POSITIONS)
@pytest.mark.parametrize("seconds", [0, 2])
async def test_a_cut_ends_it_for_both_behind_that_byte(
    network: VirtualNetwork, wire: Wire, after: int, seconds: float
) -> None:
    network.link("ada", "bob").cut(after)
    here, there = await wire()
    network.link("ada", "bob").delay(seconds)
    began = trio.current_time()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(send_what_goes, here)
        assert await read_all(there) == (SENT[:after], "end")
        assert trio.current_time() - began == pytest.approx(seconds if after else 0, abs=1e-4)
        received, how = await read_all(here)
        assert received == b""
        # A kernel that has bytes for nobody says so to their sender.
        assert how == "end" or network.over == "tcp"
    await send_until_told(here)
    assert not network.link("ada", "bob").lines


@both
@pytest.mark.parametrize("after", POSITIONS)
@pytest.mark.parametrize("seconds", [0, 2])
async def test_a_reset_breaks_it_for_both_behind_that_byte(
    network: VirtualNetwork, wire: Wire, after: int, seconds: float
) -> None:
    network.link("ada", "bob").reset(after)
    here, there = await wire()
    network.link("ada", "bob").delay(seconds)
    heard: list[str] = []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(send_what_goes, here, heard)
        assert await read_all(there) == (SENT[:after], "broken")
    received, how = await read_all(here)
    assert received == b""
    assert "broken" in [*heard, how]  # a socket says it once
    await send_until_told(here)
    assert not network.link("ada", "bob").lines


@both
@pytest.mark.parametrize("fault", ["cut", "reset"])
@pytest.mark.parametrize("sent", [0, 1, 5000])
async def test_what_is_said_of_an_open_connection_holds_at_once(
    network: VirtualNetwork, wire: Wire, fault: str, sent: int
) -> None:
    link = network.link("ada", "bob")
    here, there = await wire()
    if sent:
        await here.send_all(bytes(sent))
        await seconds_of(there, sent)
    began = trio.current_time()
    getattr(link, fault)()
    how = "end" if fault == "cut" else "broken"
    assert await read_all(there) == (b"", how)
    assert await read_all(here) == (b"", how)
    assert trio.current_time() == pytest.approx(began, abs=1e-5)


@both
@pytest.mark.parametrize("fault", ["cut", "reset"])
async def test_a_connection_ends_also_where_nobody_reads(network: VirtualNetwork, wire: Wire, fault: str) -> None:
    here, _there = await wire()
    link = network.link("ada", "bob")
    with trio.move_on_after(1):
        await here.send_all(bytes(64 * 2**20))
    getattr(link, fault)()
    await send_until_told(here)
    assert not link.lines


def break_off(stream: object) -> None:
    """As a process does that crashes."""
    if isinstance(stream, trio.SocketStream):
        stream.setsockopt(stdlib_socket.SOL_SOCKET, stdlib_socket.SO_LINGER, struct.pack("ii", 1, 0))
        stream.socket.close()
    else:
        assert isinstance(stream, MemoryStream)
        stream.reset()


@both
async def test_whoever_breaks_off_is_noticed_behind_what_it_has_sent(network: VirtualNetwork, wire: Wire) -> None:
    network.link("ada", "bob").delay(2)
    here, there = await wire()
    began = trio.current_time()
    await here.send_all(b"the last")
    await trio.sleep(0.5)
    break_off(here)
    assert await read_all(there) == (b"the last", "broken")
    assert trio.current_time() - began == pytest.approx(2.5, abs=1e-5)
    assert not network.link("ada", "bob").lines


@both
async def test_whoever_breaks_off_behind_a_half_open_link_is_not_noticed(
    network: VirtualNetwork, wire: Wire
) -> None:
    network.link("ada", "bob").half_open()
    here, there = await wire()
    break_off(here)
    with trio.move_on_after(1000) as waited:
        await read_all(there)
    assert waited.cancelled_caught


@both
async def test_a_reader_who_takes_his_time_has_all_that_came_before_a_reset(
    network: VirtualNetwork, wire: Wire
) -> None:
    network.link("ada", "bob").reset(100_000)
    here, there = await wire()
    received = 0
    async with trio.open_nursery() as nursery:
        nursery.start_soon(send_what_goes, here)
        try:
            while data := await there.receive_some(10_000):
                received += len(data)
                for _ in range(5):
                    await trio.lowlevel.checkpoint()
        except trio.BrokenResourceError:
            assert received == 100_000


@both
async def test_what_nobody_has_taken_does_not_turn_a_cut_into_a_reset(network: VirtualNetwork, wire: Wire) -> None:
    link = network.link("ada", "bob").stall()
    here, there = await wire()
    await here.send_all(bytes(5000))
    await trio.sleep(1)
    link.cut()
    assert await read_all(here) == (b"", "end")
    assert await read_all(there) == (b"", "end")


@both
@pytest.mark.parametrize("fault", ["cut", "reset"])
async def test_a_direction_that_has_ended_can_still_break(network: VirtualNetwork, wire: Wire, fault: str) -> None:
    here, there = await wire()
    await here.send_all(b"all")
    await here.send_eof()
    assert await read_all(there) == (b"all", "end")
    getattr(network.link("ada", "bob"), fault)()
    assert await read_all(here) == (b"", "end" if fault == "cut" else "broken")


@both
@pytest.mark.parametrize("after", POSITIONS)
async def test_a_stall_holds_everything_behind_that_byte_until_it_is_resumed(
    network: VirtualNetwork, wire: Wire, after: int
) -> None:
    link = network.link("ada", "bob").stall(after)
    here, there = await wire()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(here.send_all, SENT)
        if after:
            await seconds_of(there, after)
        with trio.move_on_after(1000) as waited:
            await there.receive_some()
        assert waited.cancelled_caught
        await there.send_all(b"the other way")
        assert await here.receive_some() == b"the other way"
        link.resume()
        await seconds_of(there, len(SENT) - after)
    link.stall()
    await here.send_eof()
    with trio.move_on_after(1000) as waited:
        await read_all(there)
    assert waited.cancelled_caught  # the end is stalled too
    link.heal()
    assert await read_all(there) == (b"", "end")


async def test_a_stall_fills_the_buffers_of_the_sender(network: VirtualNetwork, wire: Wire) -> None:
    network.link("ada", "bob").stall()
    here, _there = await wire()
    with trio.move_on_after(60) as waited:
        await here.send_all(bytes(2**20))
    assert waited.cancelled_caught


@both
@pytest.mark.parametrize("after", POSITIONS)
async def test_what_is_lost_is_lost_and_nobody_is_told(network: VirtualNetwork, wire: Wire, after: int) -> None:
    link = network.link("ada", "bob").half_open(after)
    here, there = await wire()
    await here.send_all(SENT)
    if after:
        await seconds_of(there, after)
    await there.send_all(b"still there?")
    assert await seconds_of(here, 12) < 1
    await here.aclose()
    await trio.sleep(1)
    link.heal()
    with trio.move_on_after(1000) as waited:
        await there.receive_some()
    assert waited.cancelled_caught
    await there.send_all(b"still there?")  # nobody is, and nobody says so


@both
@pytest.mark.parametrize(("byte", "mask"), [(0, 0x01), (4999, 0xFF), (2500, 0x80)])
async def test_one_byte_arrives_with_the_bits_of_the_mask_turned(
    network: VirtualNetwork, wire: Wire, byte: int, mask: int
) -> None:
    network.link("ada", "bob").corrupt(byte, mask).split(600)
    here, there = await wire()
    await here.send_all(SENT[:5000])
    await here.send_eof()
    received, _ = await read_all(there)
    turned = {at: was ^ is_ for at, (was, is_) in enumerate(zip(SENT[:5000], received, strict=True)) if was != is_}
    assert turned == {byte: mask}


@both
async def test_faults_can_be_said_one_behind_another(network: VirtualNetwork, wire: Wire) -> None:
    network.link("ada", "bob").corrupt(3).corrupt(5, 0x80).delay(1).cut(6)
    here, there = await wire()
    began = trio.current_time()
    await here.send_all(bytes(100))
    assert await read_all(there) == (b"\0\0\0\x01\0\x80", "end")
    assert trio.current_time() - began == pytest.approx(1, abs=1e-5)


@both
async def test_nothing_is_lost_where_a_link_changes_while_bytes_are_under_way(
    network: VirtualNetwork, wire: Wire
) -> None:
    link = network.link("ada", "bob")
    here, there = await wire()
    changes: list[Callable[[], object]] = [
        lambda: link.delay(0.01),
        lambda: link.split(100),
        lambda: link.bandwidth(10**6),
        lambda: link.stall(),
        lambda: link.resume(),
        lambda: link.corrupt(10**9),
        lambda: link.heal(),
        lambda: link.reverse.delay(0.02),
    ]

    async def change() -> None:
        for _ in range(3):
            for one in changes:
                one()
                await trio.sleep(0.0011)

    async def send() -> None:
        await here.send_all(SENT)
        await here.send_eof()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(send)
        nursery.start_soon(change)
        assert await read_all(there) == (SENT, "end")


async def test_what_is_said_of_a_link_holds_for_all_its_connections_and_no_other(
    network: VirtualNetwork, wire: Wire
) -> None:
    one, another, back, other = [
        await wire(*ends) for ends in (("ada", "bob"), ("ada", "bob"), ("bob", "ada"), ("eve", "bob"))
    ]
    network.link("ada", "bob").cut()
    for here, there in (one, another, back):
        assert await read_all(here) == (b"", "end")
        assert await read_all(there) == (b"", "end")
    await other[0].send_all(b"x")
    assert await other[1].receive_some() == b"x"


async def test_a_link_serves_whoever_has_dialed(network: VirtualNetwork, wire: Wire) -> None:
    network.link("bob", "ada").corrupt(0)
    bob, ada = await wire("bob", "ada")
    await bob.send_all(b"\0")
    assert await ada.receive_some() == b"\x01"
    await ada.send_all(b"\0")
    assert await bob.receive_some() == b"\0"


# --- what it says of itself -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("say", "text"),
    [
        (lambda link: link, ""),
        (lambda link: link.delay(0.5, spread=2), "delay 0.5 s, spread 2 s"),
        (lambda link: link.bandwidth(1000), "bandwidth 1000 bytes/s"),
        (lambda link: link.split(7), "split in pieces of 7"),
        (lambda link: link.split(), "split in pieces of 1 to 64"),
        (lambda link: link.corrupt(9).corrupt(4), "corrupts byte 4, byte 9"),
        (lambda link: link.stall(5), "stalls after 5 bytes"),
        (lambda link: link.stall(5).resume(), ""),
        (lambda link: link.cut(0).reset(7), "cut after 0 bytes, reset after 7 bytes"),
        (lambda link: link.half_open(), "half open after 0 bytes"),
        (lambda link: link.refuse(), "refuses"),
        (lambda link: link.refuse().delay(1).split().heal(), ""),
    ],
)
def test_a_link_says_what_is_the_matter_with_it(say: Callable[[Link], Link], text: str) -> None:
    link = VirtualNetwork().link("ada", "bob")
    assert str(say(link)) == text
    assert repr(link) == f"<Link ada → bob: {text or 'as it should be'}>"


@pytest.mark.parametrize(
    ("method", "arguments", "match"),
    [
        ("delay", {"seconds": -1}, "seconds are 0 or more"),
        ("delay", {"seconds": math.inf}, "`stall` lets nothing pass"),
        ("delay", {"seconds": math.nan}, "seconds are 0 or more"),
        ("delay", {"seconds": 0, "spread": -1}, "seconds are 0 or more"),
        ("bandwidth", {"rate": 0}, "more than 0, not 0"),
        ("bandwidth", {"rate": -5}, "more than 0, not -5"),
        ("bandwidth", {"rate": math.nan}, "more than 0"),
        ("split", {"size": 0}, "1 byte at least, not 0"),
        ("corrupt", {"byte": -1}, "counted from 0"),
        ("corrupt", {"byte": 0, "mask": 0}, "0x01 to 0xFF, not 0x00"),
        ("corrupt", {"byte": 0, "mask": 256}, "not 0x100"),
        ("stall", {"after": -1}, "counted from 0"),
        ("cut", {"after": -1}, "counted from 0"),
        ("reset", {"after": -1}, "counted from 0"),
        ("half_open", {"after": -1}, "counted from 0"),
    ],
)
def test_what_makes_no_sense_is_refused_and_changes_nothing(
    method: str, arguments: dict[str, Any], match: str
) -> None:
    link = VirtualNetwork().link("ada", "bob")
    with pytest.raises(ValueError, match=match):
        getattr(link, method)(**arguments)
    assert str(link) == ""
