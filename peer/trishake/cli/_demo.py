"""`trishake demo`: two peers in two processes greet each other, and each step is shown as it happens.

The parent starts `ada`, who dials, and `bob`, who listens and takes nobody but her; it hands her id to him and
his invite to her, and draws what both report, a JSON object a line, in the order of its time.
"""

from __future__ import annotations

import argparse
import heapq
import itertools
import json
import sys
import time
from pathlib import Path
from typing import Any, Final, cast

import trio

from trishake_protocol import Identity

from .._files import check_publishable, expanded, publish_file
from .._observer import Observer, Progress
from .._peer import Peer
from .._stream import Stream
from .._timeline import Timeline
from .._trust import only
from ._outcomes import ExitCode
from ._output import Output

_TIME_LIMIT: Final = 30
"""Seconds for the whole demo; on a working machine it takes one, most of it Python's own start."""

_REORDERING: Final = 0.05
"""Seconds that a report waits for an earlier one from the other process."""

_LEFT: Final = 37
"""Columns for ada; bob's begin behind them, and all fit into 80."""

_GREETING: Final = {
    1: "1 SYN ─────────────────────────▶",
    2: "2 ada's dial is admitted",
    3: "◀─────────────────── SYN-ACK 3",
    4: "4 it is bob: his key signed it",
    5: "5 ACK ─────────────────────────▶",
    6: "6 it is ada: she may come in",
}


_SENT: Final[dict[tuple[str, object], tuple[str, int]]] = {
    ("ada", 4): ("bob", 3),
    ("bob", 6): ("ada", 5),
    ("ada", 7): ("bob", 7),
}
"""What was sent before this step, though who sent it may have noted so only after it had come."""

_TIMELINE: Final = "timeline"
"""What a process reports that is not shown as a line of its own."""


# --- the two peers, each in a process of its own -----------------------------------------------------------


def _report(what: str, **facts: object) -> None:
    print(json.dumps({"at": time.monotonic(), "what": what, **facts}), flush=True)


class _Reporter(Observer):
    def __init__(self, ready: str) -> None:
        self._ready = ready

    def progress(self, progress: Progress) -> None:
        if progress.number is not None:
            session_id = None if progress.session_id is None else progress.session_id.hex()
            what = _GREETING.get(progress.number, self._ready)
            _report(what, session=session_id, step=progress.number)


async def _receive_to_end(stream: Stream) -> str:
    return b"".join([chunk async for chunk in stream]).decode()


async def _answer(stream: Stream) -> None:
    _report(f"he reads: {await _receive_to_end(stream)}")
    await stream.send_all(b"hello ada, it is me")


async def _listen() -> None:
    peer_of_ada = sys.stdin.readline().strip()
    reporter = _Reporter("◀──────────── VERDICT: ready 7")
    async with Peer(Identity.generate(), trust=only(peer_of_ada), observers=[reporter]) as bob:
        bob.handle("hello/1", _answer)
        listener = await bob.listen("tcp://127.0.0.1:0")
        _report("hello", id=str(bob.id), invite=listener.invite)
        async for connection in bob.arrivals():
            _report(_TIMELINE, timeline=connection.timeline.as_dict())
            await connection.closed()
            break
        _report("closed, by both sides")


async def _dial() -> None:
    reporter = _Reporter("7 ready, says bob")
    async with Peer(Identity.generate(), observers=[reporter]) as ada:
        _report("hello", id=str(ada.id))
        invite = sys.stdin.readline().strip()
        async with await ada.dial(invite) as connection, await connection.open_stream("hello/1") as stream:
            _report(_TIMELINE, timeline=connection.timeline.as_dict())
            await stream.send_all(b"hello bob, is it you?")
            await stream.send_eof()
            _report(f"she reads: {await _receive_to_end(stream)}")
        _report("closed, by both sides")


# --- the parent --------------------------------------------------------------------------------------------


class _Actor:
    """One of the two processes, and what it reports."""

    def __init__(self, name: str, process: trio.Process) -> None:
        self.name = name
        self.process = process
        self._unread = b""

    @classmethod
    async def start(cls, name: str) -> _Actor:
        command = [sys.executable, "-m", "trishake.cli._demo", name]
        # Not in our process group: Ctrl-C is for the parent, who ends both.
        process = await trio.lowlevel.open_process(command, stdin=-1, stdout=-1, start_new_session=True)
        return cls(name, process)

    async def next_report(self) -> dict[str, Any] | None:
        """The next report; None at the end of the process's output."""
        assert self.process.stdout is not None
        while b"\n" not in self._unread:
            chunk = await self.process.stdout.receive_some()
            if not chunk:
                return None
            self._unread += chunk
        line, _, self._unread = self._unread.partition(b"\n")
        return cast("dict[str, Any]", json.loads(line))

    async def tell(self, line: str) -> None:
        assert self.process.stdin is not None
        await self.process.stdin.send_all(line.encode() + b"\n")


class _Drawing:
    """Two columns, one line a report, times from the first one on."""

    def __init__(self, output: Output) -> None:
        self._output = output
        self._start: float | None = None
        self.session: str | None = None
        self.steps: set[int] = set()
        self.timelines: dict[str, Timeline] = {}

    def draw(self, name: str, report: dict[str, Any]) -> None:
        if report["what"] == _TIMELINE:
            self.timelines[name] = Timeline.from_dict(report["timeline"])
            return
        if self._start is None:
            self._start = report["at"]
        self.session = report.get("session") or self.session
        if "step" in report:
            self.steps.add(report["step"])
        indent = " " * (0 if name == "ada" else _LEFT)
        milliseconds = (report["at"] - self._start) * 1000
        facts = {"milliseconds": round(milliseconds, 3), "peer": name, **report}
        self._output.result(facts, f"{milliseconds:8.1f}  {indent}{report['what']}")


async def _follow(actor: _Actor, reports: trio.MemorySendChannel[tuple[float, str, dict[str, Any]]]) -> None:
    # No generator: Ctrl-C may strike between two of its steps, and it would be left to the garbage collector.
    async with reports:
        while (report := await actor.next_report()) is not None:
            await reports.send((report["at"], actor.name, report))


async def _draw_in_order(
    reports: trio.MemoryReceiveChannel[tuple[float, str, dict[str, Any]]], drawing: _Drawing
) -> None:
    """A report waits a moment for one that is older and comes through the other pipe."""
    waiting: list[tuple[float, int, str, dict[str, Any]]] = []
    counter = itertools.count()
    ended = False
    while waiting or not ended:
        with trio.move_on_after(_REORDERING):
            try:
                at, name, report = await reports.receive()
                heapq.heappush(waiting, (at, next(counter), name, report))
            except trio.EndOfChannel:
                ended = True
        while waiting and (ended or waiting[0][0] < time.monotonic() - _REORDERING):
            at, _, name, report = heapq.heappop(waiting)
            sent = _SENT.get((name, report.get("step")))
            for each in waiting:
                if (each[2], each[3].get("step")) == sent:
                    drawing.draw(each[2], {**each[3], "at": at})
                    waiting.remove(each)
                    heapq.heapify(waiting)
                    break
            drawing.draw(name, report)


async def _demo(output: Output, picture: Path | None) -> bool:
    """Run it; whether both processes ended well and every step was taken."""
    drawing = _Drawing(output)
    with trio.move_on_after(_TIME_LIMIT) as scope:
        ada, bob = await _Actor.start("ada"), await _Actor.start("bob")
        try:
            hello_ada = await ada.next_report()
            if hello_ada is None:
                return False
            await bob.tell(hello_ada["id"])
            hello_bob = await bob.next_report()
            if hello_bob is None:
                return False
            for actor, hello in ((ada, hello_ada), (bob, hello_bob)):
                facts = {"peer": actor.name, "pid": actor.process.pid, "id": hello["id"]}
                output.result(facts, f"{actor.name}, pid {actor.process.pid:<7} {hello['id']}")
            output.picture(f"bob's invite: {hello_bob['invite'].replace(hello_bob['id'], '<bob>')}\n")
            output.picture(f"{'ms':>8}  {'ada, initiator':<{_LEFT}}bob, responder")
            sender, receiver = trio.open_memory_channel[tuple[float, str, dict[str, Any]]](0)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_draw_in_order, receiver, drawing)
                async with sender:
                    nursery.start_soon(_follow, ada, sender.clone())
                    nursery.start_soon(_follow, bob, sender.clone())
                await ada.tell(hello_bob["invite"])
            codes = [await ada.process.wait(), await bob.process.wait()]
        finally:
            for actor in (ada, bob):
                if actor.process.returncode is None:
                    actor.process.kill()
        output.picture(f"\nsession {drawing.session}, the same in both logs")
        if picture is not None and drawing.timelines.keys() == {"ada", "bob"}:
            svg = drawing.timelines["ada"].svg(other=drawing.timelines["bob"])
            publish_file(picture, svg.encode())
        return codes == [0, 0] and drawing.steps == set(range(1, 8))
    if scope.cancelled_caught:
        raise TimeoutError(f"the demo did not end within {_TIME_LIMIT} s")
    return False


def run(arguments: argparse.Namespace, output: Output) -> ExitCode:
    """OK if the two peers met and talked."""
    picture = expanded(arguments.svg) if arguments.svg is not None else None
    if picture is not None:
        check_publishable(picture)
    Peer(Identity.generate())  # what the environment says amiss is told once, here, and by neither of the two
    return ExitCode.OK if trio.run(_demo, output, picture) else ExitCode.FAILED


if __name__ == "__main__":
    trio.run(_dial if sys.argv[1] == "ada" else _listen)
