"""Streams: many byte streams inside one, as yamux has them (section 10).

    frames inside DATA records → receive_data → next_event
    open, accept, refuse, send, consume, finish, reset, go_away → data_to_send → DATA records

A stream is known by its id: odd where the initiator opened it. Each direction of it has a window: what may be
sent before the receiver gives credit, and it gives it when the application has consumed, not when bytes
arrive. So one slow reader holds back its own sender, and nobody else. Who may do what when is in `states.py`.
"""

from __future__ import annotations

from collections import deque

from .errors import CloseCode, LocalProtocolError, RemoteProtocolError
from .events import (
    CreditReceived,
    DataReceived,
    GoAwayReceived,
    StreamAccepted,
    StreamEvent,
    StreamFinished,
    StreamOpened,
    StreamRefused,
    StreamReset,
)
from .limits import (
    CREDIT_UNIT,
    MAX_RUN,
    MAX_STREAM_ID,
    MAX_STREAMS,
    MAX_UNSENT_ANSWERS,
    MAX_WINDOW,
    MUX_HEADER,
    REMEMBERED_RESETS,
    STREAM_WINDOW,
)
from .messages import MuxFlag, MuxFrame, MuxType, StreamAnswer, StreamOpen, StreamVerdict, encode_mux_header
from .patterns import Role
from .states import Half, Part, StreamInput, StreamMachine, StreamState

_DATA = MuxType.DATA.value
_MUX_LENGTH = 4
"""Bytes at the end of a frame's header that say its length."""

_NOT_ANSWERED = {StreamState.AWAIT_PROTOCOL, StreamState.ASKED}


class _Stream:
    """One stream: where it stands, and the windows of its two directions."""

    __slots__ = ("credit", "greeting", "machine", "receive_window", "send_window")

    def __init__(self, id_: int, state: StreamState) -> None:
        self.machine = StreamMachine(id_, state)
        self.send_window = STREAM_WINDOW
        self.receive_window = STREAM_WINDOW
        self.credit = 0  # consumed, and not given back yet
        self.greeting = bytearray()  # the other side's, while it is incomplete


class Streams:
    """The streams of one session. A breach by the other side is raised by `next_event`."""

    def __init__(self, role: Role) -> None:
        self._our_parity = 1 if role is Role.INITIATOR else 0
        self._next_id = 1 if role is Role.INITIATOR else 2
        self._last_theirs = 0
        self._streams: dict[int, _Stream] = {}
        self._open_by_us = 0
        self._reset_here: dict[int, int] = {}  # id → what is left of its window; oldest first
        self._forgotten = 0  # the highest id that has been dropped from there
        self._leaving = False

        self._inbox = b""
        self._read_to = 0  # where in it we are
        self._body: tuple[MuxFrame, int] | None = None  # the DATA frame under way, and its bytes still to come
        self._events: deque[StreamEvent] = deque()

        self._outbox: list[bytes] = []
        self._unsent = 0
        self._unsent_answers = 0  # to streams that they opened: accepted, refused or reset
        self._pong: int | None = None

    def __len__(self) -> int:
        """How many streams are not over yet, on both sides."""
        return len(self._streams)

    def __contains__(self, id_: int) -> bool:
        """Whether the stream of that id is not over yet."""
        return id_ in self._streams

    @property
    def can_open(self) -> bool:
        """Whether there is room for one more stream of ours."""
        return self._open_by_us < MAX_STREAMS

    @property
    def unsent(self) -> int:
        """Bytes that `data_to_send` holds."""
        return self._unsent if self._pong is None else self._unsent + MUX_HEADER

    def credit(self, id_: int) -> int:
        """How many bytes of this stream `send` would take now; 0 if our half is finished, or it is over."""
        stream = self._streams.get(id_)
        return 0 if stream is None or stream.machine.sending is Half.FINISHED else stream.send_window

    # --- what the application does ----------------------------------------------------------------------

    def open(self, protocol: str) -> int:
        """Open a stream, and say what for; its id. StreamAccepted or StreamRefused is the answer.

        Raises ValueError for a protocol id out of bounds, LocalProtocolError where no stream can be opened.
        """
        greeting = StreamOpen(protocol).encode()
        if not self.can_open:
            raise LocalProtocolError(f"{MAX_STREAMS} streams of ours are open, which is the limit")
        if self._next_id > MAX_STREAM_ID:
            raise LocalProtocolError("every stream id of this session has been used: open a new connection")
        id_ = self._next_id
        self._next_id += 2
        self._open_by_us += 1
        stream = self._streams[id_] = _Stream(id_, StreamState.AWAIT_ANSWER)
        self._queue_data(stream, greeting, MuxFlag.SYN)
        return id_

    def accept(self, id_: int) -> None:
        """Take the stream that the other side opened. Raises LocalProtocolError if it was answered before."""
        self._answer(id_, StreamInput.ACCEPT, StreamAnswer(StreamVerdict.ACCEPTED))

    def refuse(self, id_: int, text: str = "") -> None:
        """Do not take it. text: for people, at most 255 bytes. Raises as `accept`, and ValueError."""
        self._answer(id_, StreamInput.REFUSE, StreamAnswer(StreamVerdict.REFUSED, text))

    def refuse_unknown(self, id_: int) -> None:
        """Do not take it: nobody here speaks its protocol. Raises as `accept`."""
        self._answer(id_, StreamInput.REFUSE, StreamAnswer(StreamVerdict.UNKNOWN_PROTOCOL))

    def send(self, id_: int, data: bytes | memoryview) -> int:
        """Queue as much of the data as the stream's credit allows; how many bytes that was, 0 if there is none.

        Raises LocalProtocolError if our half is finished, the stream is over, or it waits for our answer.
        """
        stream = self._answered(id_)
        stream.machine.sent(Part.DATA)
        part = bytes(data[: stream.send_window])
        if part:
            self._queue_data(stream, part)
        return len(part)

    def consume(self, id_: int, length: int) -> None:
        """The application has read that much: give credit for it, once it is worth a frame.

        On a stream that is over it does nothing.
        """
        stream = self._streams.get(id_)
        if stream is None or stream.machine.receiving is Half.FINISHED:
            return
        stream.credit += length
        if stream.credit >= STREAM_WINDOW // 2:
            credit = stream.credit - stream.credit % CREDIT_UNIT
            self._queue(MuxFrame(MuxType.WINDOW_UPDATE, 0, id_, credit))
            stream.receive_window += credit
            stream.credit -= credit

    def finish(self, id_: int) -> None:
        """We have sent all that we will send on this stream. Raises as `send`."""
        self._finish(self._answered(id_))

    def reset(self, id_: int) -> None:
        """Throw the stream away, both directions. On a stream that is over it does nothing."""
        stream = self._streams.get(id_)
        if stream is not None:
            self._forget(id_)
            self._reset(id_, stream.receive_window)

    def go_away(self) -> None:
        """Take no new streams: those that the other side opens from now on are reset."""
        if not self._leaving:
            self._leaving = True
            self._queue(MuxFrame(MuxType.GO_AWAY, 0, 0, 0))

    # --- bytes ------------------------------------------------------------------------------------------

    def receive_data(self, data: bytes) -> None:
        """Take the content of a DATA record."""
        self._inbox = self._inbox[self._read_to :] + data  # mostly nothing is left, and then it is no copy
        self._read_to = 0

    def next_event(self) -> StreamEvent | None:
        """What happened next, or None until more data comes. Raises RemoteProtocolError for a breach."""
        while not self._events:
            left = len(self._inbox) - self._read_to
            if not left:
                self._inbox, self._read_to = b"", 0
                return None
            if self._body is not None:
                self._read_body(*self._body)
            elif left < MUX_HEADER:
                return None
            else:
                frame = MuxFrame.decode(self._inbox, self._read_to)
                if frame.flags == 0 and frame.type is MuxType.DATA and (data := self._read_run(frame)):
                    return DataReceived(data, frame.stream)
                self._read_to += MUX_HEADER
                self._read_frame(frame)
        return self._events.popleft()

    def data_to_send(self) -> bytes:
        """Every frame that is to be sent now, in order, or nothing."""
        return b"".join(self.parts_to_send())

    def parts_to_send(self) -> list[bytes]:
        """The same, in parts that nobody has copied together."""
        if self._pong is not None:
            self._queue(MuxFrame(MuxType.PING, MuxFlag.ACK, 0, self._pong))
            self._pong = None
        parts, self._outbox = self._outbox, []
        self._unsent = self._unsent_answers = 0
        return parts

    # --- reading ----------------------------------------------------------------------------------------

    def _read_run(self, frame: MuxFrame) -> bytes:
        """The data of this DATA frame, and of those of the same stream that follow it directly.

        Nothing, and nothing read, where it is not all there or there is something to judge: see `_read_frame`.
        One record may hold thousands of crumbs: they make an event each MAX_RUN.
        """
        stream = self._streams.get(frame.stream)
        if stream is None or (stream.machine.state, stream.machine.receiving) != (StreamState.OPEN, Half.OPEN):
            return b""
        inbox, start = self._inbox, self._read_to
        header, length = inbox[start : start + MUX_HEADER - _MUX_LENGTH], frame.length
        parts: list[bytes] = []
        while len(parts) < MAX_RUN:
            end = start + MUX_HEADER + length
            if end > len(inbox) or not 0 < length <= stream.receive_window:
                break
            stream.receive_window -= length
            parts.append(inbox[start + MUX_HEADER : end])
            start = end
            if not inbox.startswith(header, start):  # another frame than one of the same kind and stream
                break
            length = int.from_bytes(inbox[start + MUX_HEADER - _MUX_LENGTH : start + MUX_HEADER], "big")
        self._read_to = start
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _read_frame(self, frame: MuxFrame) -> None:
        match frame.type:
            case MuxType.DATA:
                self._read_data(frame)
            case MuxType.WINDOW_UPDATE:
                self._read_window_update(frame)
            case MuxType.PING:
                if frame.flags & MuxFlag.SYN:
                    self._pong = frame.length  # the latest is answered, at most one is pending
            case MuxType.GO_AWAY:
                self._events.append(GoAwayReceived(frame.length))

    def _read_data(self, frame: MuxFrame) -> None:
        """The header of DATA: its length is checked against the window before any of it is stored."""
        stream = self._stream_of(frame)
        if stream is not None:
            stream.machine.received(Part.DATA)
            window = stream.receive_window
        else:
            window = self._window_of_reset(frame.stream)
        if frame.length > window:
            raise RemoteProtocolError(
                f"DATA of {frame.length} bytes for stream {frame.stream}, whose window is {window}",
                reason=CloseCode.FLOW_CONTROL,
            )
        if stream is not None:
            stream.receive_window -= frame.length
        elif frame.stream in self._reset_here:
            self._reset_here[frame.stream] -= frame.length
        if frame.length:
            self._body = frame, frame.length
        else:
            self._read_flags(frame)

    def _window_of_reset(self, id_: int) -> int:
        """What may still come for a stream that was reset here; a whole window if we no longer know."""
        if id_ in self._reset_here:
            return self._reset_here[id_]
        if id_ <= self._forgotten:
            return STREAM_WINDOW
        raise _breach(f"DATA for stream {id_}, which is over")

    def _read_body(self, frame: MuxFrame, left: int) -> None:
        """As much of the body of DATA as is there."""
        part = self._inbox[self._read_to : self._read_to + left]
        self._read_to += len(part)
        left -= len(part)
        self._body = (frame, left) if left else None
        stream = self._streams.get(frame.stream)
        if stream is not None and not self._comes_to_nothing(frame, stream):
            self._take(frame.stream, stream, part)
        if frame.flags and not left:
            self._read_flags(frame)

    def _comes_to_nothing(self, frame: MuxFrame, stream: _Stream) -> bool:
        """Whether it opens a stream and resets it: nobody could answer that. An answer beside a reset is read."""
        return bool(frame.flags & MuxFlag.RST) and stream.machine.state is StreamState.AWAIT_PROTOCOL

    def _read_window_update(self, frame: MuxFrame) -> None:
        stream = self._stream_of(frame)
        if stream is not None and frame.length:
            if stream.send_window + frame.length > MAX_WINDOW:
                raise RemoteProtocolError(
                    f"credit of {frame.length} bytes for stream {frame.stream} overflows its window",
                    reason=CloseCode.FLOW_CONTROL,
                )
            stream.send_window += frame.length
            if stream.machine.state is not StreamState.AWAIT_PROTOCOL and stream.machine.sending is Half.OPEN:
                self._events.append(CreditReceived(frame.stream))
        # Credit may come late, for a stream that is over on our side: then there is nothing to do.
        self._read_flags(frame)

    def _read_flags(self, frame: MuxFrame) -> None:
        """The end of a frame: FIN, or RST."""
        stream = self._streams.get(frame.stream)
        if frame.flags & MuxFlag.RST:
            self._reset_here.pop(frame.stream, None)
            if stream is not None:
                self._forget(frame.stream)
                if stream.machine.state is not StreamState.REFUSED:  # both sides know already
                    self._events.append(StreamReset(frame.stream, stream.machine.state in _NOT_ANSWERED))
        elif frame.flags & MuxFlag.FIN and stream is not None:
            self._read_fin(frame.stream, stream)

    def _read_fin(self, id_: int, stream: _Stream) -> None:
        stream.machine.received(Part.FIN)
        if stream.machine.state in (StreamState.AWAIT_PROTOCOL, StreamState.AWAIT_ANSWER):
            # It ended within its greeting: there will be no stream.
            self.reset(id_)
            self._events.append(StreamReset(id_, stream.machine.state in _NOT_ANSWERED))
            return
        if stream.machine.state is not StreamState.REFUSED:  # both sides know already
            self._events.append(StreamFinished(id_))
        self._forget_if_over(id_, stream)

    def _stream_of(self, frame: MuxFrame) -> _Stream | None:
        """The stream of a frame, new if it says SYN; None if it is over. Raises for one never opened."""
        id_ = frame.stream
        if frame.flags & MuxFlag.SYN:
            return self._open_for_them(id_)
        ours = id_ % 2 == self._our_parity
        if not id_ or (id_ >= self._next_id if ours else id_ > self._last_theirs):
            raise _breach(f"a frame for stream {id_}, which was never opened")
        return self._streams.get(id_)

    def _open_for_them(self, id_: int) -> _Stream | None:
        if id_ % 2 == self._our_parity or id_ <= self._last_theirs:
            raise _breach(f"stream {id_} was opened: the last was {self._last_theirs}, or it is not theirs")
        if self._unsent_answers >= MAX_UNSENT_ANSWERS:
            raise _breach("streams are opened faster than our answers are read")
        self._last_theirs = id_
        if self._leaving or len(self._streams) - self._open_by_us >= MAX_STREAMS:
            self._reset(id_, STREAM_WINDOW)
            return None
        self._streams[id_] = _Stream(id_, StreamState.AWAIT_PROTOCOL)
        return self._streams[id_]

    def _take(self, id_: int, stream: _Stream, part: bytes) -> None:
        """Bytes of a stream: first its greeting, then data."""
        match stream.machine.state:
            case StreamState.REFUSED:
                return  # "discards what arrives"
            case StreamState.AWAIT_PROTOCOL:
                rest = self._read_protocol(id_, stream, part)
            case StreamState.AWAIT_ANSWER:
                rest = self._read_answer(id_, stream, part)
            case _:
                rest = part
        if rest:
            self._events.append(DataReceived(rest, id_))

    def _read_protocol(self, id_: int, stream: _Stream, part: bytes) -> bytes:
        stream.greeting += part
        try:
            decoded = StreamOpen.decode(stream.greeting)
        except ValueError:  # "A protocol id out of bounds is reset"
            self.reset(id_)
            return b""
        if decoded is None:
            return b""
        opened, length = decoded
        stream.machine.greet(StreamInput.PROTOCOL)
        self._events.append(StreamOpened(id_, opened.protocol))
        return self._behind_greeting(id_, stream, length)

    def _read_answer(self, id_: int, stream: _Stream, part: bytes) -> bytes:
        stream.greeting += part
        decoded = StreamAnswer.decode(stream.greeting)
        if decoded is None:
            return b""
        answer, length = decoded
        if answer.verdict is StreamVerdict.ACCEPTED:
            stream.machine.greet(StreamInput.ACCEPTED)
            self._events.append(StreamAccepted(id_))
            return self._behind_greeting(id_, stream, length)
        stream.machine.greet(StreamInput.REFUSED)
        self._events.append(StreamRefused(id_, answer.verdict is StreamVerdict.UNKNOWN_PROTOCOL, answer.text))
        stream.greeting.clear()  # and what stands behind the answer: nobody will read it
        if stream.machine.sending is Half.OPEN:
            self._finish(stream)
        return b""

    def _behind_greeting(self, id_: int, stream: _Stream, length: int) -> bytes:
        rest = bytes(stream.greeting[length:])
        stream.greeting = bytearray()
        self.consume(id_, length)
        return rest

    # --- writing ----------------------------------------------------------------------------------------

    def _known(self, id_: int) -> _Stream:
        try:
            return self._streams[id_]
        except KeyError:
            raise LocalProtocolError(f"stream {id_} is over, or was never opened") from None

    def _answered(self, id_: int) -> _Stream:
        """A stream on which we may speak: the other side would read anything else as our answer."""
        stream = self._known(id_)
        if stream.machine.state in _NOT_ANSWERED:
            raise LocalProtocolError(f"cannot send on stream {id_}: it is {stream.machine.state.value}")
        return stream

    def _answer(self, id_: int, input_: StreamInput, answer: StreamAnswer) -> None:
        encoded = answer.encode()
        stream = self._known(id_)
        stream.machine.greet(input_)
        self._unsent_answers += 1
        self._queue_data(stream, encoded, MuxFlag.ACK)
        if answer.verdict is not StreamVerdict.ACCEPTED:
            self._finish(stream)

    def _finish(self, stream: _Stream) -> None:
        stream.machine.sent(Part.FIN)
        self._queue(MuxFrame(MuxType.WINDOW_UPDATE, MuxFlag.FIN, stream.machine.stream, 0))
        self._forget_if_over(stream.machine.stream, stream)

    def _reset(self, id_: int, window: int) -> None:
        """Say RST, and expect what is under way: it counts against the window, and is dropped."""
        if id_ % 2 != self._our_parity:
            self._unsent_answers += 1
        self._queue(MuxFrame(MuxType.WINDOW_UPDATE, MuxFlag.RST, id_, 0))
        self._reset_here[id_] = window
        if len(self._reset_here) > REMEMBERED_RESETS:
            oldest = next(iter(self._reset_here))
            del self._reset_here[oldest]
            self._forgotten = max(self._forgotten, oldest)

    def _forget_if_over(self, id_: int, stream: _Stream) -> None:
        if stream.machine.over:
            self._forget(id_)

    def _forget(self, id_: int) -> None:
        del self._streams[id_]
        if id_ % 2 == self._our_parity:
            self._open_by_us -= 1

    def _queue_data(self, stream: _Stream, data: bytes, flags: MuxFlag = MuxFlag.NONE) -> None:
        length = len(data)
        stream.send_window -= length
        self._outbox += encode_mux_header(_DATA, flags, stream.machine.stream, length), data
        self._unsent += MUX_HEADER + length

    def _queue(self, frame: MuxFrame) -> None:
        self._outbox.append(frame.encode())
        self._unsent += MUX_HEADER


def _breach(text: str) -> RemoteProtocolError:
    return RemoteProtocolError(text, reason=CloseCode.PROTOCOL)
