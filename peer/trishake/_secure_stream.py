"""SecureStream: one greeting over any Trio stream, and the one encrypted stream behind it.

It has no task of its own: whoever calls `send_all` encrypts and writes, whoever calls `receive_some` reads and
decrypts. `initiate` and `respond` make one of any stream; many streams over one connection, and addresses to
dial, are `Connection`'s and `Peer`'s.

    send_all → Session.send → Wire.queue → Wire.flush → transport
    transport → Wire.receive → Session.receive_data → Session.next_event → receive_some
"""

from __future__ import annotations

import math
import operator
from collections.abc import Iterable, Sequence
from functools import lru_cache, partial
from typing import Final

import trio

from trishake_protocol import (
    CloseCode,
    CloseReceived,
    DataReceived,
    Direction,
    Identity,
    Network,
    PeerId,
    Profile,
    RemoteProtocolError,
    Session,
    Wait,
)
from trishake_protocol.limits import MAX_RECORD_CONTENT

from ._errors import ConnectionClosed
from ._files import FilePath
from ._greeting import (
    Greeted,
    Greeter,
    Meeting,
    check_optimistic,
    greet_as_initiator,
    greet_as_responder,
    unix_time,
)
from ._key_log import KeyLog, key_log_writer
from ._limits import Limits
from ._observer import Observer
from ._observers import Observers
from ._signer import Signer
from ._timeline import Trace
from ._transport import OneCaller
from ._trust import Policy, anyone, as_peer_id
from ._version import AGENT
from ._wire import Interrupted, Wire

_GATHERED: Final = 2 * MAX_RECORD_CONTENT
"""Bytes of records that have come together, from which on they are handed out."""

_SEND_CHUNK: Final = 4 * MAX_RECORD_CONTENT
"""Plaintext that is encrypted ahead of the write: bounds what a slow reader makes us hold."""


class SecureStream(Greeted, trio.abc.HalfCloseableStream):
    """An encrypted stream to a peer whose identity is proved. Made by a greeting, never by hand.

    Its errors are those of a Trio stream: BusyResourceError for two callers at once, ClosedResourceError after
    our own close, and ConnectionClosed, a BrokenResourceError, with the code and text of who ended it.
    """

    def __init__(
        self,
        session: Session,
        wire: Wire,
        meeting: Meeting,
        limits: Limits,
    ) -> None:
        super().__init__(session, wire, meeting)
        self._limits = limits
        self._sending = OneCaller("send")
        self._receiving = OneCaller("receive")
        self._received = b""
        self._close_received: CloseReceived | None = None
        self._drained = False
        """Nothing more has arrived, or nothing more will count."""
        self._read_until = math.inf
        """Until when, on Trio's clock, we read: for a while after the transport has broken, or we are closing."""
        self._failure: ConnectionClosed | None = None
        self._closed = False

    def __repr__(self) -> str:
        return f"<SecureStream to {self.peer.short} session {self.session_id.hex()}>"

    # --- sending ----------------------------------------------------------------------------------------

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Send all of it; returns when the transport has taken it.

        Cancelled on a socket, it leaves the stream whole: records that were under way are completed by the
        next call or by `aclose`. On another transport, see `Wire`: the connection is broken, and says so.
        """
        with self._sending:
            self._check_failure()
            if self._session.sending is not Direction.OPEN:
                raise trio.ClosedResourceError("send_eof was called: this direction has ended")
            await trio.lowlevel.checkpoint_if_cancelled()
            if self._wire.unsent:  # an earlier call was cancelled
                await self._flush()
            view = memoryview(data)
            for start in range(0, len(view), _SEND_CHUNK):
                self._session.send(view[start : start + _SEND_CHUNK])
                if not self._written():
                    await self._flush()
            await trio.lowlevel.cancel_shielded_checkpoint()

    async def wait_send_all_might_not_block(self) -> None:
        with self._sending:
            await trio.lowlevel.checkpoint()
            self._check_failure()
            try:
                await self._wire.wait_writable()
            except trio.BrokenResourceError as error:
                raise self._write_failed(error) from error
            except Interrupted:
                raise self._failure_now() from None

    async def send_eof(self) -> None:
        """End our direction, authenticated (CLOSE NORMAL); the other one goes on. Again, it does nothing."""
        with self._sending:
            await trio.lowlevel.checkpoint()
            self._check_failure()
            if self._session.sending is Direction.OPEN:
                self._session.finish()
            await self._flush()

    async def _flush(self) -> None:
        """Write what the session wants to say. A checkpoint only if there is something to wait for."""
        while not self._written():
            try:
                await self._wire.flush()
            except trio.BrokenResourceError as error:
                raise self._write_failed(error) from error
            except Interrupted:
                pass  # we look what has become of everything
            self._check_failure()

    def _written(self) -> bool:
        """Write what the session wants to say, if the transport takes it now; whether it did. No checkpoint."""
        self._wire.queue(self._session)
        try:
            return self._wire.write_now()
        except trio.BrokenResourceError as error:
            raise self._write_failed(error) from error

    def _write_failed(self, error: trio.BrokenResourceError) -> Exception:
        """The transport is broken: everything ends, and the reader wakes with the cause.

        He first gets what has arrived: the other side's last words may be among it.
        """
        self._fail(self._broken_by(error))
        self._read_until = trio.current_time() + self._limits.close
        self._wire.interrupt()
        return self._failure_now()

    # --- receiving --------------------------------------------------------------------------------------

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """At least one byte, or none when the other side has ended its direction, authenticated.

        Cancelled, it has lost nothing, but on a transport that is no socket may have torn the answer to a ping
        (see Wire). An end without CLOSE raises ConnectionClosed: it is no clean end.
        """
        if max_bytes is not None and operator.index(max_bytes) < 1:
            raise ValueError("max_bytes must be at least 1")
        with self._receiving:
            if self._closed:
                raise self._failure_now()
            if self._failure is not None:
                self._read_until = trio.current_time() + self._limits.close
            waited = False
            while not self._received:
                if not self._drained:
                    try:
                        self._received = self._take_data()
                    except RemoteProtocolError as error:
                        raise await self._end_after(error) from error
                elif self._close_received is not None:
                    close, self._close_received = self._close_received, None
                    await self._take_close(close)
                elif self._session.receiving is not Direction.OPEN:
                    break
                else:
                    waited = True
                    await self._read()
            if not waited:
                await trio.lowlevel.checkpoint()
            if not self._received:
                self._check_failure()
            if max_bytes is None or len(self._received) <= max_bytes:
                data, self._received = self._received, b""
            else:
                data, self._received = self._received[:max_bytes], self._received[max_bytes:]
            return data

    def _take_data(self) -> bytes:
        """What has arrived, as far as the next CLOSE: one call for several records, which came together."""
        parts: list[bytes] = []
        length = 0
        while length < _GATHERED:
            try:
                event = self._session.next_event()
            except RemoteProtocolError as error:
                if not parts:
                    raise
                self._fail(self._ended_by(error))  # who sends hears of it now
                break  # and it is raised again when this has been read
            if isinstance(event, DataReceived):
                parts.append(event.data)
                length += len(event.data)
            elif isinstance(event, Wait | CloseReceived):
                self._drained = True
                if isinstance(event, CloseReceived):
                    self._close_received = event
                    if event.code is not CloseCode.NORMAL:
                        self._fail(self._closed_by(event.code, event.text))
                break
            # else it is a PONG: nobody waits for it
        return parts[0] if len(parts) == 1 else b"".join(parts)

    async def _read(self) -> None:
        """Read once; what the session wants to answer is written beside it."""
        try:
            if self._session.has_data_to_send or self._wire.unsent or self._read_until != math.inf:
                data = await self._read_while_flushing()
            else:
                data = await self._wire.receive(self._session.receive_room)
        except Interrupted:
            if self._closed:
                raise self._failure_now() from None
            return
        except trio.BrokenResourceError as error:
            self._fail(self._broken_by(error))
            raise self._failure_now() from error
        self._drained = False
        if data:
            self._session.receive_data(data)
        else:
            self._session.receive_eof()

    async def _read_while_flushing(self) -> bytes | bytearray:
        """Read; what the session wants to answer is written beside it, and reading never waits for that.

        Only where a cancelled write would tear the transport does it come first. Once everything has ended, it is
        for a while at most.
        """
        with trio.CancelScope(deadline=self._read_until):
            return await self._receive_beside_flush()
        raise self._failure_now()

    async def _receive_beside_flush(self) -> bytes | bytearray:
        if not self._wire.unsent:  # else what the other side asks without reading would pile up
            self._wire.queue(self._session)
        room = self._session.receive_room
        if self._wire.pending and self._wire.tears:
            await self._flush_quietly()
        if not self._wire.pending:
            return await self._wire.receive(room)
        outcome: list[bytes | bytearray | Exception] = []
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._flush_quietly)
            try:
                outcome.append(await self._wire.receive(room))
            except (trio.BrokenResourceError, trio.ClosedResourceError, Interrupted) as error:
                outcome.append(error)  # it comes out alone, in no group
            nursery.cancel_scope.cancel()
        if isinstance(outcome[0], Exception):
            raise outcome[0]
        return outcome[0]

    async def _flush_quietly(self) -> None:
        try:
            await self._wire.flush()
        except (trio.BrokenResourceError, trio.ClosedResourceError, Interrupted):
            pass  # the reader beside us meets the same end, and names it

    async def _take_close(self, close: CloseReceived) -> None:
        if close.code is not CloseCode.NORMAL:
            await self._end(self._closed_by(close.code, close.text))

    async def _end_after(self, error: RemoteProtocolError) -> Exception:
        await self._end(self._ended_by(error))
        return self._failure_now()

    async def _end(self, closed: ConnectionClosed) -> None:
        """The other side ended it, one way or another: the sender wakes, and our CLOSE is written."""
        self._fail(closed)
        self._wire.interrupt()
        await self._write_last_words()

    async def _write_last_words(self) -> None:
        self._wire.queue(self._session)
        with trio.move_on_after(self._limits.write_alert):
            await self._flush_quietly()

    # --- ending -----------------------------------------------------------------------------------------

    async def aclose(self, code: CloseCode = CloseCode.NORMAL, text: str | None = None) -> None:
        """Close for good: end our direction, wait for the other's CLOSE, at most `Limits.close`, and close.

        code, text: what the other side is told, text of at most 256 bytes; with NORMAL it may finish what it is
        sending, and that is discarded. Raises nothing but ValueError for such a text; then, and cancelled, the
        transport is closed all the same, at once.
        """
        if self._closed:
            await trio.lowlevel.checkpoint()
            return
        self._closed = True
        try:
            with trio.move_on_after(self._limits.close):
                self._wire.interrupt()
                await self._sending.wait_left()
                await self._receiving.wait_left()
                await self._close_both_directions(code, text)
                await self._wire.aclose()
        finally:
            await self._wire.abort()
        await trio.lowlevel.checkpoint()

    async def _close_both_directions(self, code: CloseCode, text: str | None) -> None:
        session = self._session
        if self._failure is not None or self._wire.torn:
            if session.has_data_to_send:  # the end came behind data, and nobody has read on from there
                await self._write_last_words()
            if self._failure is not None and not self._failure.by_peer:
                await self._say_goodbye()
            return
        if code is not CloseCode.NORMAL and session.sending is not Direction.CLOSED:
            session.close(code, text)
        elif session.sending is Direction.OPEN:
            session.finish(text)
        self._wire.queue(session)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._flush_quietly)
            try:
                while session.receiving is Direction.OPEN:
                    if session.next_event() is Wait.NEED_DATA:
                        data = await self._wire.receive(session.receive_room)
                        session.receive_data(data) if data else session.receive_eof()
            except (RemoteProtocolError, trio.BrokenResourceError, trio.ClosedResourceError):
                # It was to end anyway, and no one is left to tell.
                nursery.cancel_scope.cancel()

    async def _say_goodbye(self) -> None:
        """We ended it for a breach, and have said so: let the other side read that before the reset."""
        try:
            await self._wire.send_eof()
            await self._wire.drain(self._limits.drain_after_alert, self._limits.drain_bytes)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            return

    def _fail(self, closed: ConnectionClosed) -> None:
        if self._failure is None:
            self._failure = closed

    def _failure_now(self) -> Exception:
        """What a caller gets who waited, or comes, when it has ended."""
        if self._closed:
            return trio.ClosedResourceError("this connection was closed here")
        assert self._failure is not None
        known = self._failure
        return ConnectionClosed(str(known), code=known.code, text=known.text, by_peer=known.by_peer)

    def _check_failure(self) -> None:
        if self._closed or self._failure is not None:
            raise self._failure_now()


# --- over any Trio stream ---------------------------------------------------------------------------------


async def initiate(
    stream: trio.abc.Stream,
    identity: Identity | Signer,
    *,
    expect: PeerId | str | None = None,
    optimistic: bytes = b"",
    trust: Policy = anyone,
    network: Network | None = None,
    suites: Sequence[int] | None = None,
    app: bytes | None = None,
    agent: str | None = AGENT,
    limits: Limits | None = None,
    observers: Iterable[Observer] = (),
    key_log: KeyLog | FilePath | None = None,
) -> SecureStream:
    """Greet whoever is at the other end of a stream, as the one who opens. Returns once we are accepted.

    expect: who must answer; anyone whom `trust` takes, if None. optimistic: the first bytes of the stream, at most
    16,000, sent with our last message, before we know that we are accepted: their answer is there a round trip
    earlier, and nobody sees them who does not accept us. network: the default is the public network `trishake`.
    suites: ids enabled, best first. app: at most 4096 bytes, handed to the other side's policy.
    observers, key_log: as for `Peer`; BadFile as there.
    Raises DialError: NoResponse, Rejected, or Refused; ValueError for too much optimistic data. The stream is ours
    from the call on: it is closed when the greeting fails or is cancelled, and with the connection.
    """
    profile = _profile(network, suites, agent, app)
    expected = None if expect is None else as_peer_id(expect)
    check_optimistic(optimistic)
    log = key_log_writer(key_log)
    session = Session.initiator(identity, profile, now=unix_time(), expected=expected, key_log=log)
    greeter = _greeter(stream, session, identity, trust, limits, observers, network)
    greeter.trace.peer = expected
    if optimistic:
        greeter.behind_ack = partial(session.send, optimistic)
    meeting = await greet_as_initiator(greeter)
    return SecureStream(session, greeter.wire, meeting, greeter.limits)


async def respond(
    stream: trio.abc.Stream,
    identity: Identity | Signer,
    *,
    trust: Policy = anyone,
    network: Network | None = None,
    suites: Sequence[int] | None = None,
    app: bytes | None = None,
    agent: str | None = AGENT,
    limits: Limits | None = None,
    observers: Iterable[Observer] = (),
    key_log: KeyLog | FilePath | None = None,
) -> SecureStream:
    """Answer the greeting that comes over a stream. Returns once we have accepted and said so.

    Parameters and errors as for `initiate`; a dialer that our policy rejects is told why, and Untrusted is
    raised here.
    """
    profile = _profile(network, suites, agent, app)
    session = Session.responder(identity, profile, now=unix_time(), key_log=key_log_writer(key_log))
    greeter = _greeter(stream, session, identity, trust, limits, observers, network)
    meeting = await greet_as_responder(greeter)
    return SecureStream(session, greeter.wire, meeting, greeter.limits)


def _profile(
    network: Network | None, suites: Sequence[int] | None, agent: str | None, app: bytes | None
) -> Profile:
    ids = None if suites is None else tuple(suites)
    if network is not None and network.private:
        return Profile(network, ids, agent=agent, app=app)  # its keys are to be kept nowhere
    return _public_profile(network or _PUBLIC, ids, agent, app)


_PUBLIC: Final = Network()


@lru_cache(maxsize=16)
def _public_profile(
    network: Network, suites: tuple[int, ...] | None, agent: str | None, app: bytes | None
) -> Profile:
    """Checked and encoded once for all greetings of one kind: it is an eighth of the work of each."""
    return Profile(network, suites, agent=agent, app=app)


def _greeter(
    stream: trio.abc.Stream,
    session: Session,
    identity: Identity | Signer,
    trust: Policy,
    limits: Limits | None,
    observers: Iterable[Observer],
    network: Network | None,
) -> Greeter:
    wire = Wire.over(stream)
    return Greeter(
        session,
        wire,
        identity=identity,
        trust=trust,
        limits=limits or Limits(),
        trace=Trace(session.role, identity.id, (network or _PUBLIC).name, wire.address, Observers(observers)),
    )
