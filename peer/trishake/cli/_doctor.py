"""`trishake doctor`: nine checks, one after the other, of what keeps us from a peer.

Each has a deadline of its own, and all of them together have one. It makes at most eight connections at a time,
changes nothing that is stored, and says who we are to nobody who would not learn it from a dial.
"""

from __future__ import annotations

import argparse
import math
import os
import stat
import statistics
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Final

import trio

from trishake_protocol import Network, PeerId, Role, code_name, escape
from trishake_protocol.errors import AlertCode, VerdictCode
from trishake_protocol.greeting import clocks_apart
from trishake_protocol.limits import EXPIRY_ALLOWANCE, VERSION
from trishake_protocol.messages import Alert
from trishake_protocol.patterns import SUITES

from .._addresses import Address
from .._connection import Connection
from .._errors import ChangedIdentity, ConnectionClosed, DialError, InvalidAddress, NoResponse, Rejected
from .._keys import Identity
from .._known_peers import KnownPeers
from .._limits import Limits
from .._observer import Observer, Progress
from .._observers import Observers
from .._peer import SCHEMES, Peer, transport_for
from .._probe import Foreign, asking_for_suites, asking_for_versions, first_answer, recognize
from .._signer import Signer
from .._steps import NO_SUCH_NAME, Cause, Phase, Step
from .._tcp import Tcp
from .._timeline import Timeline, Trace
from .._transport import Place, Transport, abandon, no_response
from .._trust import Acceptance, Decision, Introduction, accept, reject
from ._dialing import address_of
from ._findings import SKIPPED, Finding, Report, Status
from ._identities import open_identity
from ._known import known_peers_path
from ._networks import network_of
from ._outcomes import ExitCode, UsageError
from ._output import Output

_CONNECT: Final = 5.0
_GREETING: Final = 10.0
_ALTOGETHER: Final = 60.0
"""Seconds, unless --timeout says otherwise: the first two are then what it says, the last is twelve times that."""

_PATIENCE: Final = 2.0
"""Seconds for an answer to a preface; then we ask in other protocols."""

_MOST_PLACES: Final = 8
"""Of a name, that are tried: whoever answers for it may send hundreds."""

_PINGS: Final = 5


def doctor(arguments: argparse.Namespace, output: Output) -> ExitCode:
    return trio.run(_doctor, arguments, output)


async def _doctor(arguments: argparse.Namespace, output: Output) -> ExitCode:
    limits, altogether = _limits(arguments.timeout)
    network = network_of(arguments) or Network()
    report = Report(output)
    report.begin()
    address, transport, finding = _check_invite(arguments.invite)
    report.end(finding)
    if address is not None and transport is not None:
        identity = await open_identity(arguments, output)
        trust = _Consultation(arguments.trust, address, known_peers_path(arguments))
        with trio.move_on_after(altogether):
            await _Examination(address, transport, identity, network, limits, trust).run(report)
    report.finish()
    return report.conclude()


def _limits(seconds: float | None) -> tuple[Limits, float]:
    """Of each check, and in seconds of all of them."""
    if seconds is None:
        return Limits(connect=_CONNECT, greeting=_GREETING, close=1, finish=0), _ALTOGETHER
    if not 0 < seconds < math.inf:
        raise UsageError("--timeout takes a number of seconds above 0")
    return Limits(connect=seconds, greeting=seconds, close=min(1, seconds), finish=0), 12 * seconds


# --- 1: the invite --------------------------------------------------------------------------------------


def _check_invite(text: str) -> tuple[Address | None, Transport | None, Finding]:
    try:
        address = address_of(text)
        transport = _transport_of(address)
    except InvalidAddress as error:
        return None, None, Finding(Status.FAILED, ["this cannot be dialed"], error=error)
    who = "it names nobody: --trust decides who may answer" if address.peer is None else str(address.peer)
    where = str(replace(address, peer=None))
    facts: dict[str, object] = {"address": where, "peer": None if address.peer is None else str(address.peer)}
    return address, transport, Finding(Status.OK, [escape(where), who], facts)


def _transport_of(address: Address) -> Transport:
    if address.scheme not in SCHEMES:
        known = ", ".join(scheme for scheme in SCHEMES if scheme != "mem")
        raise InvalidAddress(f"'{address}': no transport for {address.scheme}:// here; there are {known}")
    return transport_for(address.scheme)


# --- 2 to 9 ---------------------------------------------------------------------------------------------


class _Examination:
    """The checks that need the other side, and what they know of it so far."""

    def __init__(
        self,
        address: Address,
        transport: Transport,
        identity: Identity | Signer,
        network: Network,
        limits: Limits,
        trust: _Consultation,
    ) -> None:
        self._address = address
        self._transport = transport
        self._carrier = transport if address.scheme in ("tcp", "unix") else Tcp()
        """What carries the transport: its ports are knocked at by themselves."""
        self._network = network
        self._limits = limits
        self._patience = min(_PATIENCE, limits.greeting)
        self._trust = trust
        self._watch = _Watch()
        self._peer = Peer(
            identity, trust=trust, network=network, limits=limits, observers=[self._watch], transports=[transport]
        )
        self._trace = Trace(Role.INITIATOR, identity.id, network.name, address.endpoint, Observers())
        """Of the checks before the dial, which has its own."""
        self._trace.peer = address.peer
        self._places: Sequence[Place] = ()
        self._place: Place = None
        self._alert: Alert | None = None
        """What a preface of another version was answered with."""
        self._dialing = False
        self._connection: Connection | None = None
        self._error: DialError | None = None

    async def run(self, report: Report) -> None:
        checks: tuple[Callable[[], Awaitable[Finding]], ...] = (
            self._check_name,
            self._check_port,
            self._check_protocol,
            self._check_versions,
            self._check_peer,
            self._check_verdict,
            self._check_clock,
            self._check_speed,
        )
        async with self._peer, trio.open_nursery() as self._nursery:
            for check in checks:
                report.begin()
                # The other side's clock is known from its greeting, whatever came of that.
                possible = not report.failed or check == self._check_clock
                report.end(await check() if possible else SKIPPED)
            self._nursery.cancel_scope.cancel()

    async def _check_name(self) -> Finding:
        if self._address.scheme == "unix":
            return self._check_socket_file()
        started = trio.current_time()
        try:
            with trio.fail_after(self._limits.connect):
                places = await self._transport.resolve(self._address)
        except (OSError, trio.TooSlowError) as error:
            return self._no_response(no_response(Phase.RESOLVE, error, trio.current_time() - started))
        if not places:
            return self._no_response(NoResponse(Phase.RESOLVE, Cause.UNREACHABLE, detail=NO_SUCH_NAME))
        self._places = places[:_MOST_PLACES]
        endpoints = [self._endpoint_of(place) for place in self._places]
        self._trace.places = dict.fromkeys(endpoints)
        self._trace.mark(Step.RESOLVED)
        lines = [f"{endpoint}  {'IPv6' if endpoint.startswith('[') else 'IPv4'}" for endpoint in endpoints]
        if more := len(places) - len(self._places):
            lines.append(f"and {more} more, which are not tried")
        return Finding(Status.OK, lines, {"places": endpoints})

    def _check_socket_file(self) -> Finding:
        path = self._address.path
        try:
            is_socket = stat.S_ISSOCK(os.stat(path).st_mode)
        except OSError as error:
            return self._no_response(no_response(Phase.CONNECT, error, 0))
        self._places = [self._address]
        self._trace.mark(Step.RESOLVED)
        if not is_socket:
            detail = "a file is there that is no socket"
            return self._no_response(NoResponse(Phase.CONNECT, Cause.UNREACHABLE, detail=detail))
        return Finding(Status.OK, ["the socket file is there"], {"places": [path]})

    async def _check_port(self) -> Finding:
        """Every place by itself, all of them at once."""
        said: dict[int, float | NoResponse] = {}

        async def knock(index: int) -> None:
            started = trio.current_time()
            try:
                stream = await self._knock(self._places[index])
            except (OSError, trio.BrokenResourceError, trio.TooSlowError) as error:
                said[index] = no_response(Phase.CONNECT, error, trio.current_time() - started)
                return
            said[index] = trio.current_time() - started
            await abandon(stream)

        async with trio.open_nursery() as nursery:
            for index in range(len(self._places)):
                nursery.start_soon(knock, index)
        lines: list[str] = []
        facts: list[dict[str, object]] = []
        silent: list[NoResponse] = []
        for index, place in enumerate(self._places):
            endpoint, told = self._endpoint_of(place), said[index]
            if isinstance(told, NoResponse):
                silent.append(told)
                self._trace.places[endpoint] = told.detail or str(told.cause)
                lines.append(f"{escape(endpoint)}  {_why_closed(told)}")
                facts.append({"endpoint": endpoint, "milliseconds": None, "failure": str(told.cause)})
            else:
                self._place = place if self._place is None else self._place
                what = "somebody listens" if self._address.scheme == "unix" else "open"
                lines.append(f"{escape(endpoint)}  {what}, {told * 1000:.1f} ms")
                facts.append({"endpoint": endpoint, "milliseconds": round(told * 1000, 3), "failure": None})
        if len(silent) == len(self._places):
            return replace(self._no_response(silent[0]), lines=lines, facts={"places": facts})
        self._trace.endpoint = self._endpoint_of(self._place)
        return Finding(Status.WARNING if silent else Status.OK, lines, {"places": facts})

    async def _check_protocol(self) -> Finding:
        """Begin a greeting in a version that nobody speaks; if that says nothing, ask in other protocols.

        A private network may be quiet, and answer nobody but its own: then the greeting itself decides.
        """
        started = trio.current_time()
        try:
            answer = await first_answer(self._connect, asking_for_versions(self._network.tag), self._patience)
        except NoResponse as error:
            return await self._check_wrapping(error)
        except (OSError, trio.BrokenResourceError, trio.TooSlowError) as error:
            return await self._check_wrapping(no_response(Phase.CONNECT, error, trio.current_time() - started))
        self._trace.mark(Step.CONNECTED)
        self._trace.mark(Step.SYN_SENT)
        self._alert = answer.alert
        if self._alert is not None:
            return Finding(Status.OK, ["Trishake"], {"protocol": "Trishake"})
        foreign = (
            Foreign(answer.protocol, answer.shown)
            if answer.data
            else await recognize(self._connect, self._address.host or None, None, self._patience)
        )
        if foreign is not None:
            return self._foreign(Phase.SYN_ACK, foreign)
        self._dial_soon()
        await self._watch.reached(Step.SYN_ACK_RECEIVED)
        if isinstance(self._error, NoResponse) and self._error.phase is not Phase.VERDICT:
            said = "silent, whatever is asked" if answer.ended is Cause.TIMEOUT else "hangs up, whatever is asked"
            return replace(self._no_response(self._error, fail=False), lines=[said])
        return Finding(
            Status.OK, ["Trishake, which is quiet: it answers its own network"], {"protocol": "Trishake"}
        )

    async def _check_wrapping(self, error: NoResponse) -> Finding:
        """The transport's own handshake failed: whose port is it?"""
        foreign = None
        if self._carrier is not self._transport and error.protocol is None:
            foreign = await recognize(
                partial(self._knock, self._place), self._address.host or None, self._network.tag, self._patience
            )
        if foreign is None or (foreign.protocol == "TLS" and self._address.scheme in ("tls", "wss")):
            return self._no_response(error)
        return self._foreign(error.phase, foreign)

    def _foreign(self, phase: Phase, foreign: Foreign) -> Finding:
        line = str(foreign)
        if foreign.protocol == "Trishake":
            line = f"Trishake, but not inside {self._address.scheme}://: its invite begins with tcp://"
        error = NoResponse(phase, Cause.FOREIGN, protocol=foreign.protocol)
        finding = self._no_response(error)
        return replace(finding, lines=[line], facts={"protocol": foreign.protocol, "begins": foreign.shown})

    async def _check_versions(self) -> Finding:
        versions = None if self._alert is None else self._alert.versions
        suites = None
        if versions is not None:
            try:
                preface = asking_for_suites(self._network.tag)
                answer = await first_answer(self._connect, preface, self._patience)
                suites = None if answer.alert is None else answer.alert.suites
            except (NoResponse, OSError, trio.BrokenResourceError, trio.TooSlowError):
                pass  # not told, as where nothing was answered
        facts: dict[str, object] = {"versions": versions, "suites": suites}
        lines = [
            "versions not told" if versions is None else _versions(*versions),
            "suites not told" if suites is None else f"suites {', '.join(map(_suite, suites))}",
        ]
        if self._alert is not None and versions is None:
            lines.append(f"it said {code_name(self._alert.code)} instead")
        ours = self._network.default_suites
        if versions is not None and not versions[0] <= VERSION <= versions[1]:
            rejected = Rejected(AlertCode.UNSUPPORTED_VERSION, authenticated=False, versions=versions)
        elif suites is not None and not set(suites) & set(ours):
            rejected = Rejected(AlertCode.UNSUPPORTED_SUITE, authenticated=False, suites=suites)
            lines.append(f"ours are {', '.join(map(_suite, ours))}")
        elif versions is None or suites is None:
            return Finding(Status.UNKNOWN, lines, facts)
        else:
            return Finding(Status.OK, lines, facts)
        self._trace.suite = SUITES[ours[0]]
        self._trace.fail(rejected)
        return Finding(Status.FAILED, lines, facts, rejected)

    async def _check_peer(self) -> Finding:
        self._dial_soon()
        await self._watch.reached(Step.POLICY)
        identified = self._trust.introduction
        if self._error is not None and (identified is None or not self._watch.has_reached(Step.POLICY)):
            if isinstance(self._error, Rejected):
                return Finding(Status.UNKNOWN, ["rejected before it said who it is"])
            lines = [self._error.counted_as if isinstance(self._error, NoResponse) else self._error.outcome]
            if self._error.peer is not None:
                lines.insert(0, str(self._error.peer))
            return Finding(Status.FAILED, [*lines, *self._trust.lines], self._trust.facts, self._error)
        assert identified is not None
        named = "whom the invite names" if self._address.peer is not None else "the invite names nobody"
        agent = identified.greeting.agent
        lines = [str(identified.peer), named, *([] if agent is None else [escape(agent)]), *self._trust.lines]
        facts = {"peer": str(identified.peer), "agent": agent, **self._trust.facts}
        return Finding(Status.WARNING if self._trust.objects else Status.OK, lines, facts)

    async def _check_verdict(self) -> Finding:
        await self._watch.reached(Step.VERDICT)
        if self._error is not None:
            lines = [f"{self._error.outcome}: {self._error.counted_as}"]
            if isinstance(self._error, Rejected) and self._error.text:
                lines.append(f'"{escape(self._error.text)}"')
            return Finding(Status.FAILED, lines, {"reason": self._error.counted_as}, self._error)
        assert self._connection is not None
        welcome = self._connection.welcome
        lines = ["accepted", *([] if welcome is None else [f'"{escape(welcome)}"'])]
        return Finding(Status.OK, lines, {"reason": code_name(VerdictCode.READY), "text": welcome})

    async def _check_clock(self) -> Finding:
        timeline = self._timeline
        if timeline is None or (seconds := timeline.clock_difference) is None:
            return SKIPPED
        # Its greeting has whole seconds, and took a moment to come here.
        line = f"{clocks_apart(seconds)} ours" if abs(seconds) > 1 else "as ours"
        facts: dict[str, object] = {"clock_difference": seconds}
        if abs(seconds) > EXPIRY_ALLOWANCE:
            lines = [
                line,
                f"greetings that expire are refused from {EXPIRY_ALLOWANCE} s on: set both clocks right",
            ]
            return Finding(Status.WARNING, lines, facts)
        return Finding(Status.OK, [line], facts)

    async def _check_speed(self) -> Finding:
        connection, timeline = self._connection, self._timeline
        assert connection is not None
        assert timeline is not None
        times: list[float] = []
        try:
            with trio.move_on_after(self._limits.greeting):
                for _ in range(_PINGS):
                    times.append(await connection.ping() * 1000)
        except ConnectionClosed as error:
            return Finding(Status.FAILED, ["the connection did not last"], {"pings": times}, error)
        resolve, connect = (timeline[step].seconds * 1000 for step in (Step.RESOLVED, Step.CONNECTED))
        greeting = timeline.seconds * 1000 - resolve - connect
        median = statistics.median(times) if times else None
        lines = [f"resolve {resolve:.1f} ms, connect {connect:.1f} ms, greeting {greeting:.1f} ms"]
        lines.append("no answer to a ping" if median is None else f"ping {median:.2f} ms, median of {len(times)}")
        if connection.seen is not None:
            lines.append(f"seen from there as {escape(connection.seen)}")
        facts: dict[str, object] = {
            "resolve": round(resolve, 3),
            "connect": round(connect, 3),
            "greeting": round(greeting, 3),
            "ping": median,
            "seen": connection.seen,
            "session": connection.session_id.hex(),
        }
        return Finding(Status.OK if len(times) == _PINGS else Status.WARNING, lines, facts)

    # --- how ------------------------------------------------------------------------------------------------

    @property
    def _timeline(self) -> Timeline | None:
        """Of the dial, if there was one."""
        if self._connection is not None:
            return self._connection.timeline
        return None if self._error is None else self._error.timeline

    def _endpoint_of(self, place: Place) -> str:
        return self._carrier.endpoint_of(self._address, place)

    async def _connect(self) -> trio.abc.Stream:
        """To the first place that has answered, with the handshakes of the transport."""
        with trio.fail_after(self._limits.connect):
            return await self._transport.connect(self._address, self._place, self._nursery)

    async def _knock(self, place: Place) -> trio.abc.Stream:
        """To this one, without them."""
        with trio.fail_after(self._limits.connect):
            return await self._carrier.connect(self._address, place, self._nursery)

    def _dial_soon(self) -> None:
        if not self._dialing:
            self._dialing = True
            self._nursery.start_soon(self._dial)

    async def _dial(self) -> None:
        try:
            self._connection = await self._peer.dial(self._address)
        except DialError as error:
            self._error = error
        self._watch.end()

    def _no_response(self, error: NoResponse, *, fail: bool = True) -> Finding:
        """fail: it is of no dial, and what it ends is our own trace."""
        if fail:
            self._trace.fail(error)
        facts: dict[str, object] = {"cause": str(error.cause), "protocol": error.protocol}
        return Finding(Status.FAILED, [_why_closed(error)], facts, error)


class _Watch(Observer):
    """Lets a check wait until our dial has taken a step, or has ended."""

    def __init__(self) -> None:
        self._taken: set[Step] = set()
        self._ended = False
        self._news = trio.Event()

    def progress(self, progress: Progress) -> None:
        self._taken.add(progress.step)
        self._tell()

    def end(self) -> None:
        self._ended = True
        self._tell()

    def has_reached(self, step: Step) -> bool:
        return step in self._taken

    async def reached(self, step: Step) -> None:
        """Returns when the step is taken, or will never be. VERDICT is only when the dial has returned."""
        while not self._ended and (step is Step.VERDICT or step not in self._taken):
            await self._news.wait()

    def _tell(self) -> None:
        self._news.set()
        self._news = trio.Event()


class _Consultation:
    """The policy of a dial with these options, which asks nobody and records nothing; what it was told."""

    def __init__(self, trust: str, address: Address, path: os.PathLike[str]) -> None:
        self._trust = trust
        self._address = address
        self._known = KnownPeers(path, strict=True)
        self.introduction: Introduction | None = None
        self.lines: list[str] = []
        """What the file of known peers says, for people; facts: for machines."""
        self.facts: dict[str, object] = {}
        self.objects = False
        """Whether the file knows somebody else there, or cannot be read: even if these options do not ask it."""

    async def __call__(self, introduction: Introduction) -> Decision:
        self.introduction = introduction
        said = await self._known(introduction)
        stranger = self._note(said, introduction.peer)
        if self._trust == "anyone" or (self._trust == "ask" and self._address.peer is not None):
            return accept()
        if not stranger or self._trust == "strict":
            return said
        if self._trust == "accept-new":
            return accept()
        return reject(
            why=f"Nobody is known yet at {self._address.endpoint}: use an invite that names the peer, or "
            "`trishake dial`, which asks you."
        )

    def _note(self, said: Decision, peer: PeerId) -> bool:
        """Whether nobody is known there."""
        name = escape(self._address.endpoint)
        if isinstance(said, Acceptance):
            self.lines, self.facts = [f"known as {name}"], {"known": "yes"}
            return False
        refusal = said.refusal(peer)
        if isinstance(refusal, ChangedIdentity):
            self.objects = True
            self.lines = [
                "SOMEBODY ELSE IS KNOWN THERE:",
                str(refusal.expected),
                f"{refusal.path}, line {refusal.line}",
            ]
            self.facts = {"known": "changed", "expected": str(refusal.expected)}
            return False
        if said.reason is VerdictCode.INTERNAL:
            self.objects = True
            self.lines, self.facts = [escape(said.why or "")], {"known": "unreadable"}
            return False
        self.lines, self.facts = [f"nobody is known yet as {name}"], {"known": "no"}
        return True


_WHY_CLOSED: Final = {
    Cause.REFUSED: "closed: nobody listens there",
    Cause.TIMEOUT: "nothing came back",
    Cause.RESET: "reset",
    Cause.CLOSED: "closed by the other side",
}


def _why_closed(error: NoResponse) -> str:
    """What a place said."""
    foreign = error.protocol or "another protocol"
    what = foreign if error.cause is Cause.FOREIGN else _WHY_CLOSED.get(error.cause, str(error.cause))
    return f"{what} ({escape(error.detail)})" if error.detail else what


def _versions(lowest: int, highest: int) -> str:
    spoken = f"version {lowest}" if lowest == highest else f"versions {lowest} to {highest}"
    return spoken if lowest <= VERSION <= highest else f"{spoken}, and we speak {VERSION}"


def _suite(id_: int) -> str:
    return f"0x{id_:04x}"
