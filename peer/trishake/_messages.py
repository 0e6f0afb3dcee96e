"""Messages: msgpack values over any Trio stream, and one request with its reply over a stream of its own.

    MessageChannel      a trio.abc.Channel of values
    request, answer     the two ends of one stream that carries a request and its reply

On the wire a message is its length, a u32, and one msgpack value of that many bytes. A request is one message; its
reply is [0, result], or [1, kind, text] for a failure. The requester's end of stream before the reply, like
anything else that he says, means that he no longer wants it. No other module of the runtime imports msgpack.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from typing import Any, Final, cast

import msgpack  # type: ignore[import-untyped]  # pyright: ignore[reportMissingTypeStubs]
import trio

from ._errors import BadMessage, MessageTooLarge, RequestFailed, is_request_kind
from ._events import log_failure

MAX_SIZE: Final = 2**20
"""Bytes of one message, unless the application says otherwise; the four of its length are not counted."""

MAX_DEPTH: Final = 64
"""Lists and maps inside one another; the outermost is 1, and scalars add none."""

MAX_INT_KEYS: Final = 1024
"""Keys of one map that are ints. Python hashes texts with a secret, and ints without: who may choose as many as he
likes chooses such that collide, and a dict of them takes quadratic time."""

LEAST_SIZE_OF_REPLY: Final = 2048
"""What a requester has to take, in bytes: a failure fits in, with its kind and text."""

_HEADER: Final = 4
_CHUNK: Final = 64 * 1024
"""Bytes that one read asks for."""

_packb = cast("Callable[..., bytes]", msgpack.packb)  # pyright: ignore[reportUnknownMemberType]
_unpackb = cast("Callable[..., Any]", msgpack.unpackb)  # pyright: ignore[reportUnknownMemberType]
_unpacker = cast("Callable[..., Any]", msgpack.Unpacker)  # pyright: ignore[reportUnknownMemberType]


# --- values ---------------------------------------------------------------------------------------------


def encode_message(value: object, max_size: int) -> bytes:
    """One frame. Raises TypeError, ValueError, or MessageTooLarge."""
    try:
        data = _packb(value, default=_refuse)
        if len(data) > max_size:
            raise MessageTooLarge(len(data), max_size, by_peer=False)
        _decode(data)  # what the other side would refuse (an ext, a key that is None) is not sent at all
    except MessageTooLarge:
        raise
    except ValueError as error:
        raise ValueError(f"this value cannot be sent: {error}") from None
    return len(data).to_bytes(_HEADER, "big") + data


def _refuse(value: object) -> object:
    """Called by msgpack for what it cannot encode."""
    if isinstance(value, int):
        raise ValueError("an int below -2**63 or above 2**64 - 1")
    raise TypeError(
        f"this value cannot be sent: a {type(value).__name__} is in it; "
        "None, bool, int, float, str, bytes, list and dict are possible"
    )


def _decode(data: bytes | bytearray) -> Any:
    """The value that these bytes are, all of them. Raises ValueError, which says in what they are none."""
    try:
        # First without building anything: msgpack allocates what an array announces, so it has to be there.
        scanner = _unpacker(max_buffer_size=max(len(data), 1), read_size=max(len(data), 1))
        scanner.feed(data)
        scanner.skip()
        if extra := len(data) - scanner.tell():
            raise ValueError(f"{extra} bytes follow the value")
        value = _unpackb(data, strict_map_key=False, max_ext_len=0, ext_hook=_no_ext, object_pairs_hook=_map)
    except msgpack.exceptions.OutOfData:
        raise ValueError("it ends inside its value") from None
    except msgpack.exceptions.FormatError:
        raise ValueError("a byte that msgpack never uses") from None
    except msgpack.exceptions.StackError:
        raise ValueError(_TOO_DEEP) from None
    _check_depth(value)
    return value


_TOO_DEEP: Final = f"lists and maps nested deeper than {MAX_DEPTH}"


def _check_depth(value: object) -> None:
    """Level by level, so that our own stack does not grow with it."""
    level: list[Any] = [value]
    for _ in range(MAX_DEPTH):
        inner: list[Any] = []
        for item in level:
            if isinstance(item, list):
                inner += item
            elif isinstance(item, dict):
                inner += item.values()
        level = inner
    if any(isinstance(item, list | dict) for item in level):
        raise ValueError(_TOO_DEEP)


def _map(pairs: list[tuple[object, object]]) -> dict[object, object]:
    ints = 0
    for key, _ in pairs:
        if type(key) is int:
            ints += 1
        elif type(key) not in (str, bytes):
            raise ValueError(f"a key that is a {type(key).__name__}; str, int and bytes are possible")
    if ints > MAX_INT_KEYS:
        raise ValueError(
            f"a map with {ints} keys that are ints, the limit is {MAX_INT_KEYS}: a list of pairs has none"
        )
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("a key that is there twice")
    return result


def _no_ext(code: int, data: bytes) -> object:
    raise ValueError(f"an ext of type {code}")


# --- the channel ----------------------------------------------------------------------------------------


class MessageChannel(trio.abc.Channel[Any]):
    """A channel of values over a stream, which it owns: None, bool, int, float, str, bytes, list, dict.

    A dict's keys are str, int or bytes, at most 1024 of them int; an int has 64 bits; a tuple arrives as a list, a
    bytearray as bytes, and a subclass (an IntEnum) as what it is derived from. Nesting ends at a depth of 64.
    max_size: bytes of one message, in both directions; a value may take a hundred times as much memory, if it is
    made to.

    Any number of tasks may send, and are served in turn, each message whole; any number may receive, and each
    message goes to one of them. What the stream raises comes through as it is.
    """

    def __init__(self, stream: trio.abc.Stream, *, max_size: int = MAX_SIZE) -> None:
        if not 0 < max_size < 2**32:
            raise ValueError(f"max_size of {max_size} bytes, possible are 1 to {2**32 - 1}")
        self.stream: Final = stream
        self.max_size: Final = max_size
        self._peer = getattr(stream, "peer", None)
        self._closed = False
        self._sending = trio.StrictFIFOLock()
        self._torn = False
        self._receiving = trio.StrictFIFOLock()
        self._received = bytearray()
        self._end: Callable[[], Exception] | None = None
        """Makes what every receive raises, once nothing more can come."""

    # --- sending

    async def send(self, value: object) -> None:
        """Send one value.

        Raises TypeError or ValueError for what is no such value, MessageTooLarge above max_size: nothing is sent
        then. Cancelled while it waits for its turn it has sent nothing; cancelled later, part of the message may
        be on its way, and every later send raises trio.BrokenResourceError.
        """
        frame = encode_message(value, self.max_size)
        async with self._sending:
            self._check_sending()
            await trio.lowlevel.checkpoint_if_cancelled()  # the last moment at which nothing is torn
            try:
                await self.stream.send_all(frame)
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                raise  # the stream says so itself from now on
            except BaseException:
                self._torn = True
                raise

    async def send_eof(self) -> None:
        """Send no more, and go on receiving; the other side's receive raises trio.EndOfChannel then.

        Raises TypeError if the stream cannot half-close: it is no trio.abc.HalfCloseableStream.
        """
        if not isinstance(self.stream, trio.abc.HalfCloseableStream):
            raise TypeError(f"a {type(self.stream).__name__} cannot half-close: use aclose")
        async with self._sending:
            self._check_sending()
            await self.stream.send_eof()

    def _check_sending(self) -> None:
        if self._closed:
            raise trio.ClosedResourceError("this channel was closed here")
        if self._torn:
            raise trio.BrokenResourceError(
                "an earlier send was cancelled in the middle of its message: nothing more can be sent, close this"
            )

    # --- receiving

    async def receive(self) -> Any:
        """The next value. Cancelled, it has lost nothing.

        Raises trio.EndOfChannel at the end, trio.BrokenResourceError if that is in the middle of a message,
        MessageTooLarge or BadMessage for what the other side must not send; so does every later receive.
        """
        async with self._receiving:
            while True:
                if self._closed:
                    raise trio.ClosedResourceError("this channel was closed here")
                if self._end is not None:
                    raise self._end()
                if (message := self._take()) is not None:
                    try:
                        return _decode(message)
                    except ValueError as error:
                        raise self._ended(partial(BadMessage, str(error), peer=self._peer)) from None
                if data := await self.stream.receive_some(_CHUNK):
                    self._received += data
                else:
                    raise self._ended(self._at_end_of_stream())

    def _take(self) -> bytearray | None:
        """The bytes of the next message, if they are all there. Cutting them off moves no others: a bytearray
        that shrinks at its front remembers where it starts."""
        received = self._received
        if len(received) < _HEADER:
            return None
        size = int.from_bytes(received[:_HEADER], "big")
        if size > self.max_size:
            raise self._ended(partial(MessageTooLarge, size, self.max_size, by_peer=True, peer=self._peer))
        if len(received) < _HEADER + size:
            return None
        message = received[_HEADER : _HEADER + size]
        del received[: _HEADER + size]
        return message

    def _at_end_of_stream(self) -> Callable[[], Exception]:
        have = len(self._received)
        if not have:
            return trio.EndOfChannel
        size = int.from_bytes(self._received[:_HEADER], "big")
        what = f"{have} of its {_HEADER + size} bytes" if have >= _HEADER else f"{have} of the 4 of its length"
        return partial(trio.BrokenResourceError, f"the stream ended in the middle of a message, after {what}")

    def _ended(self, end: Callable[[], Exception]) -> Exception:
        self._end = end
        self._received.clear()
        return end()

    async def aclose(self) -> None:
        """Close the stream, as it does that. Who is sending or receiving gets trio.ClosedResourceError."""
        self._closed = True
        await self.stream.aclose()


# --- requests -------------------------------------------------------------------------------------------

RequestFunction = Callable[[Any, Any], Awaitable[object]]
"""Answers requests: async (value, peer) -> result. peer: who asks, None if the stream does not know it."""

_MAX_TEXT: Final = 1024
"""Bytes of UTF-8 of a failure's text."""

_HUNG_UP: Final = (trio.EndOfChannel, trio.BrokenResourceError, trio.ClosedResourceError)


async def request(stream: trio.abc.Stream, value: object, *, max_size: int = MAX_SIZE, sent: bool = False) -> Any:
    """Send one value and return what the other side answers. The stream is ours from the call on, and closed.

    sent: whether the value went along with the opening of the stream. max_size: bytes, of request and reply; at
    least 2048. Raises RequestFailed if the other side could not answer, BadMessage or MessageTooLarge for what is
    no reply, trio.BrokenResourceError if it ended without one; and as MessageChannel.send. Cancelled, it aborts
    the stream, and the function over there is cancelled.
    """
    channel = _channel_for_reply(stream, max_size)
    try:
        reply = await (channel.receive() if sent else _exchange(channel, value))
        await channel.aclose()
    except BaseException:
        await trio.aclose_forcefully(stream)
        raise
    peer = getattr(stream, "peer", None)
    match reply:  # by type too: in Python, True and 1.0 are 1
        case [int(status), result] if type(status) is int and status == 0:
            return result
        case [int(status), str(kind), str(text)] if (
            type(status) is int and status == 1 and is_request_kind(kind) and len(text.encode()) <= _MAX_TEXT
        ):
            raise RequestFailed(kind, text, peer=peer, by_peer=True)
        case _:
            raise BadMessage("a reply is [0, result] or [1, kind, text]", peer=peer)


async def _exchange(channel: MessageChannel, value: object) -> Any:
    broken: trio.BrokenResourceError | None = None
    try:
        await channel.send(value)
    except trio.BrokenResourceError as error:
        broken = error  # a request that is too large is refused before it has been read: the reply may be there
    try:
        return await channel.receive()
    except trio.EndOfChannel:
        raise broken or trio.BrokenResourceError("the other side closed the stream without a reply") from None
    except trio.BrokenResourceError as error:
        raise broken or error from None


async def answer(
    stream: trio.abc.Stream, function: RequestFunction, *, max_size: int = MAX_SIZE, seconds: float = math.inf
) -> None:
    """Read one request, and reply with what the function returns. The stream is ours from the call on, and closed.

    If the requester hangs up, or says anything more, the function is cancelled, nothing is sent, and nothing is
    raised. A function that raises RequestFailed says what the requester is told; of every other failure he
    learns only that there was one, and the log has the rest. max_size: bytes, of the request and of its reply;
    at least 2048. seconds: for the request to be there, and for its reply to be taken; how long the function works
    is its own affair. Cancelled, it aborts the stream.
    """
    channel = _channel_for_reply(stream, max_size)
    try:
        with suppress(*_HUNG_UP):
            reply = await _reply(channel, function, seconds)
            with trio.move_on_after(seconds):
                if reply is not None:
                    await _send_reply(channel, reply)
                    await channel.aclose()
    finally:
        await trio.aclose_forcefully(stream)


def check_max_size(max_size: int) -> None:
    """Raises ValueError if a failure might not fit into a reply."""
    if max_size < LEAST_SIZE_OF_REPLY:
        raise ValueError(f"max_size of {max_size} bytes, a request needs at least {LEAST_SIZE_OF_REPLY}")


def _channel_for_reply(stream: trio.abc.Stream, max_size: int) -> MessageChannel:
    check_max_size(max_size)
    return MessageChannel(stream, max_size=max_size)


async def _reply(channel: MessageChannel, function: RequestFunction, seconds: float) -> list[object] | None:
    """What to send, or None once the requester has hung up, or has asked nothing in time."""
    value: Any = None
    try:
        with trio.move_on_after(seconds) as waiting:
            value = await channel.receive()
        if waiting.cancelled_caught:
            return None
    except MessageTooLarge as error:
        return [1, "bad-request", f"{error.size} bytes, the limit is {error.limit}"]
    except BadMessage as error:
        return [1, "bad-request", error.what]
    scope = trio.CancelScope()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_cancel_at_hang_up, channel, scope)
        reply = await _call(function, value, getattr(channel.stream, "peer", None), scope)
        nursery.cancel_scope.cancel()
    return None if scope.cancel_called else reply


async def _cancel_at_hang_up(channel: MessageChannel, scope: trio.CancelScope) -> None:
    with suppress(*_HUNG_UP, BadMessage, MessageTooLarge):
        await channel.receive()
    scope.cancel()


async def _call(
    function: RequestFunction, value: object, peer: object, scope: trio.CancelScope
) -> list[object] | None:
    # The function is the application's: whatever it raises is its failure, and none of the connection's
    # bystanders may fall with it. The requester is told that much, the log gets the traceback.
    try:
        with scope:
            return [0, await function(value, peer)]
    except Exception as error:  # noqa: BLE001
        if (failure := _on_purpose(error)) is not None:
            return [1, failure.kind, _cut(failure.text)]
        text = f"the function that answers a request of {peer or 'the other side'} failed"
        log_failure("request.failed", text, peer=peer)
        return [1, "failed", ""]
    return None


def _on_purpose(error: Exception) -> RequestFailed | None:
    """What the function wants to be told: not what somebody else has told it, in answer to a request of its own.

    A nursery in the function makes groups: one of nothing else counts as its first.
    """
    if isinstance(error, ExceptionGroup):
        failures = [_on_purpose(inner) for inner in cast("ExceptionGroup[Exception]", error).exceptions]
        return failures[0] if None not in failures else None
    return error if isinstance(error, RequestFailed) and not error.by_peer else None


async def _send_reply(channel: MessageChannel, reply: list[object]) -> None:
    try:
        await channel.send(reply)
    except (TypeError, ValueError):  # raised before anything is sent
        text = "the function that answers a request returned what cannot be sent"
        log_failure("request.failed", text, peer=None)
        await channel.send([1, "bad-result", ""])


def _cut(text: str) -> str:
    return text.encode(errors="replace")[:_MAX_TEXT].decode(errors="ignore")
