"""_tls.py: the wrapping for where only TLS passes, and what a port says that speaks something else."""

from __future__ import annotations

import ssl
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import trio

from trishake import Address, Cause, Limits, NoResponse, Peer, Phase, Tls, WrongIdentity
from trishake._transport import open_stream
from trishake.testing._by_hand import read_to_end

from .conftest import ADA, BOB, EVE, QUICK, Watch, open_sockets, reset, serving


async def dial(port: int, limits: Limits = QUICK, transport: Tls | None = None, host: str = "127.0.0.1") -> None:
    nursery = trio.lowlevel.current_task().parent_nursery
    assert nursery is not None
    stream = await open_stream(Address(host, port, scheme="tls"), transport or Tls(), limits, nursery)
    await stream.aclose()


async def banner(stream: trio.SocketStream) -> None:
    async with stream:
        await stream.send_all(b"SSH-2.0-OpenSSH_9.2\r\n")
        await read_to_end(stream)


async def close(stream: trio.SocketStream) -> None:
    async with stream:
        await stream.receive_some()


async def crash(stream: trio.SocketStream) -> None:
    await stream.receive_some()
    await reset(stream)


async def silence(stream: trio.SocketStream) -> None:
    async with stream:
        await read_to_end(stream)


@pytest.mark.parametrize(
    ("script", "cause", "words"),
    [
        (banner, Cause.FOREIGN, "what answered is no TLS"),
        (close, Cause.CLOSED, "in the TLS handshake"),
        (crash, Cause.RESET, "in the TLS handshake"),
        (silence, Cause.TIMEOUT, "the time was up"),
    ],
    ids=["SSH", "closes", "crashes", "is silent"],
)
async def test_a_port_that_speaks_no_tls_says_so_at_connect(script: object, cause: Cause, words: str) -> None:
    before = open_sockets()
    async with serving(script) as port:  # type: ignore[arg-type]
        with pytest.raises(NoResponse, match=words) as caught:
            await dial(port, replace(QUICK, connect=0.3))
    assert (caught.value.phase, caught.value.cause) == (Phase.CONNECT, cause)
    assert caught.value.elapsed > 0
    assert open_sockets() == before


async def test_a_peer_that_is_dialed_without_tls_ends_that_dial_and_listens_on() -> None:
    async with Peer(BOB, limits=QUICK) as bob, Peer(ADA, limits=QUICK) as ada:
        listener = await bob.listen("tls://127.0.0.1:0")
        with pytest.raises(NoResponse) as caught:
            await ada.dial(f"tcp://127.0.0.1:{listener.addresses[0].port}")
        assert caught.value.cause in (Cause.CLOSED, Cause.RESET)
        assert (await ada.dial(listener.invite)).peer == BOB.id


async def test_a_dialer_who_is_silent_before_the_tls_handshake_has_the_time_of_a_greeting() -> None:
    watch = Watch()
    async with Peer(BOB, limits=replace(QUICK, syn=0.1), observers=[watch]) as bob:
        listener = await bob.listen("tls://127.0.0.1:0")
        async with await trio.open_tcp_stream("127.0.0.1", listener.addresses[0].port) as silent:
            error = await watch.wait_failed()
            assert isinstance(error, NoResponse)
            assert (error.phase, error.cause) == (Phase.SYN, Cause.TIMEOUT)
            await read_to_end(silent)


@asynccontextmanager
async def listening(transport: Tls) -> AsyncIterator[int]:
    """A port behind which TLS is spoken, and nothing said in it."""
    async with trio.open_nursery() as nursery:
        (bound,) = await transport.listen(Address("127.0.0.1", 0, scheme="tls"), nursery)

        async def answer(stream: trio.abc.Stream) -> None:
            async with stream:
                await read_to_end(stream)

        nursery.start_soon(trio.serve_listeners, answer, [bound.listener])
        yield bound.address.port
        nursery.cancel_scope.cancel()


async def test_a_dialer_who_wants_a_real_certificate_gets_none_of_ours() -> None:
    strict = Tls(client_context=ssl.create_default_context())
    async with listening(Tls()) as port:
        await dial(port)
        with pytest.raises(NoResponse, match="its certificate does not count: self-signed") as caught:
            await dial(port, transport=strict)
    assert caught.value.cause is Cause.BROKEN


async def test_a_certificate_proves_nobody() -> None:
    """Anyone on the path may end the TLS: who is there is what the greeting inside it says."""
    async with Peer(EVE, limits=QUICK) as eve, Peer(ADA, limits=QUICK) as ada:
        listener = await eve.listen("tls://127.0.0.1:0")
        with pytest.raises(WrongIdentity) as caught:
            await ada.dial(str(listener.addresses[0].with_peer(BOB.id)))
    assert (caught.value.expected, caught.value.actual) == (BOB.id, EVE.id)


async def test_nothing_older_than_tls_1_3_is_spoken() -> None:
    old = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    old.check_hostname, old.verify_mode = False, ssl.CERT_NONE
    old.maximum_version = ssl.TLSVersion.TLSv1_2
    async with listening(Tls()) as port:
        with pytest.raises(NoResponse, match="in the TLS handshake"):
            await dial(port, transport=Tls(client_context=old))


async def test_the_key_of_the_certificate_is_left_in_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    async with listening(Tls()) as port:
        assert list(tmp_path.iterdir()) == []
        await dial(port)


async def test_each_listening_transport_has_a_certificate_of_its_own() -> None:
    seen = set()
    for _ in range(2):
        async with listening(Tls()) as port:
            stream = await trio.open_ssl_over_tcp_stream("127.0.0.1", port, ssl_context=Tls()._client_context)
            await stream.do_handshake()
            seen.add(stream.getpeercert(True))
            await trio.aclose_forcefully(stream)
    assert len(seen) == 2


@pytest.mark.parametrize(("host", "named"), [("localhost", "localhost"), ("127.0.0.1", None)])
async def test_the_host_is_named_to_the_other_side_where_it_is_a_name(host: str, named: str | None) -> None:
    asked: list[str | None] = []
    transport = Tls()
    transport._server_context.sni_callback = lambda _, name, __: asked.append(name)
    async with listening(transport) as port:
        await dial(port, host=host)
    assert asked == [named]
