"""Tls: `tls://host:port`, a greeting inside TLS, for networks that let nothing else pass."""

from __future__ import annotations

import os
import ssl
import tempfile
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from functools import cached_property
from typing import Final, TypeAlias

import trio

from ._addresses import Address
from ._errors import NoResponse
from ._steps import Cause, Phase
from ._tcp import Tcp
from ._transport import Bound, Place, Transport, begins_handshake

_LIFETIME: Final = timedelta(days=365)
"""Of a certificate that is made at `listen`; our own dialers do not read it."""

_NOT_TLS: Final = {"WRONG_VERSION_NUMBER", "HTTP_REQUEST", "UNKNOWN_PROTOCOL", "PACKET_LENGTH_TOO_LONG"}
"""What OpenSSL calls an answer that is no TLS."""

TlsStream: TypeAlias = "trio.SSLStream[trio.SocketStream]"


class Tls(Transport):
    """TLS over TCP, version 1.3 unless a context says otherwise.

    TLS is the wrapping here, and proves nothing: the dialer takes any certificate, for the greeting inside
    proves who is there, and the listener makes a certificate to be thrown away. Whoever stands between can so
    unwrap the outer layer, and sees what he sees over `tcp://`.

    client_context, server_context: used as they are, where a certificate shall count after all, or where the
    listener has a real one. The dialer names the host to the other side (SNI) if it is no IP address.
    """

    schemes = ("tls",)

    def __init__(
        self, *, client_context: ssl.SSLContext | None = None, server_context: ssl.SSLContext | None = None
    ) -> None:
        self._tcp = Tcp()
        self._given_client_context = client_context
        self._given_server_context = server_context

    async def resolve(self, address: Address) -> Sequence[Place]:
        return await self._tcp.resolve(address)

    def endpoint_of(self, address: Address, place: Place) -> str:
        return self._tcp.endpoint_of(address, place)

    async def connect(self, address: Address, place: Place, nursery: trio.Nursery) -> TlsStream:
        """A stream whose TLS handshake is done. Raises OSError, or NoResponse where the answer is no TLS."""
        socket_stream = await self._tcp.connect(address, place, nursery)
        begins_handshake("TLS")
        try:
            stream = trio.SSLStream(
                socket_stream,
                self._client_context,
                server_hostname=address.host.partition("%")[0],  # a zone of IPv6 is this machine's affair
                https_compatible=True,  # the ends of our directions are authenticated inside
            )
            await stream.do_handshake()
        except trio.BrokenResourceError as error:
            await trio.aclose_forcefully(socket_stream)
            raise _no_response(error) from error
        except BaseException:
            await trio.aclose_forcefully(socket_stream)
            raise
        return stream

    async def listen(self, address: Address, nursery: trio.Nursery) -> Sequence[Bound]:
        """As TCP. The handshake is done at the first read or write, within the greeting's deadline."""
        context = self._server_context
        return [
            bound._replace(listener=trio.SSLListener(bound.listener, context, https_compatible=True))
            for bound in await self._tcp.listen(address, nursery)
        ]

    @cached_property
    def _client_context(self) -> ssl.SSLContext:
        if self._given_client_context is not None:
            return self._given_client_context
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        return context

    @cached_property
    def _server_context(self) -> ssl.SSLContext:
        if self._given_server_context is not None:
            return self._given_server_context
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        # A ticket that the dialer leaves unread would turn his close into a reset, and nobody resumes.
        context.num_tickets = 0
        _load_throw_away_certificate(context)
        return context


def _no_response(error: trio.BrokenResourceError) -> NoResponse:
    """What a failed handshake of the dialer tells about who is there."""
    match error.__cause__:
        case ssl.SSLError(reason=reason) if reason in _NOT_TLS:
            return NoResponse(Phase.CONNECT, Cause.FOREIGN, detail="what answered is no TLS")
        case ssl.SSLCertVerificationError(verify_message=message):
            return NoResponse(Phase.CONNECT, Cause.BROKEN, detail=f"its certificate does not count: {message}")
        case ssl.SSLEOFError():
            return NoResponse(
                Phase.CONNECT, Cause.CLOSED, detail="in the TLS handshake; is it TLS that it speaks?"
            )
        case ssl.SSLError(reason=reason):
            return NoResponse(Phase.CONNECT, Cause.BROKEN, detail=f"the TLS handshake failed: {reason}")
        case _:
            return NoResponse(Phase.CONNECT, Cause.RESET, detail="in the TLS handshake")


def _load_throw_away_certificate(context: ssl.SSLContext) -> None:
    """A new key and its self-signed certificate. `ssl` takes them from a file alone: it is gone at return."""
    # Here, not above: an application that speaks no TLS need not load it.
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())  # the one kind of key that every TLS 1.3 takes (RFC 8446, 9.1)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "trishake")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))  # the other side's clock may be behind
        .not_valid_after(now + _LIFETIME)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    descriptor, path = tempfile.mkstemp(suffix=".pem")  # mode 0600
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(private + certificate.public_bytes(serialization.Encoding.PEM))
        context.load_cert_chain(path)
    finally:
        os.unlink(path)
