"""Mutual TLS 1.3 on Trio's SSLStream, Ed25519 certificates, each side's own pinned at the other.

A self-signed certificate that the other side knows is what comes nearest to a key as an identity, and is the
least work for TLS: one signature and one verification on each side. No session is resumed and no ticket is sent.
The listener's end counts from its verification of the dialer's certificate; the dialer's end, from its own last
message: in TLS 1.3 only a read tells it whether it was accepted, and it does not read here.
"""

from __future__ import annotations

import datetime
import ssl
import tempfile
from pathlib import Path

import trio
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from benchmarks.measure import OverTcp, arguments, main

LISTENER = "listener.example"
DIALER = "dialer.example"


def make_certificate(host: str) -> tuple[bytes, bytes]:
    """(certificate, private key), PEM."""
    key = Ed25519PrivateKey.generate()
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, host)])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(host)]), critical=False)
        .sign(key, None)
    )
    return certificate.public_bytes(Encoding.PEM), key.private_bytes(
        Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()
    )


def make_context(purpose: ssl.Purpose, own: tuple[bytes, bytes], others: bytes) -> ssl.SSLContext:
    context = ssl.create_default_context(purpose, cadata=others.decode())
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.verify_mode = ssl.CERT_REQUIRED
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "pem").write_bytes(b"".join(own))
        context.load_cert_chain(Path(folder) / "pem")
    if purpose is ssl.Purpose.CLIENT_AUTH:
        context.num_tickets = 0
    return context


if __name__ == "__main__":
    listener, dialer = make_certificate(LISTENER), make_certificate(DIALER)
    at_listener = make_context(ssl.Purpose.CLIENT_AUTH, listener, others=dialer[0])
    at_dialer = make_context(ssl.Purpose.SERVER_AUTH, dialer, others=listener[0])

    async def dial(transport: trio.SocketStream) -> trio.SSLStream[trio.SocketStream]:
        stream = trio.SSLStream(transport, at_dialer, server_hostname=LISTENER)
        await stream.do_handshake()
        return stream

    async def answer(transport: trio.SocketStream) -> trio.SSLStream[trio.SocketStream]:
        stream = trio.SSLStream(transport, at_listener, server_side=True)
        await stream.do_handshake()
        return stream

    main(OverTcp("tls", "import ssl, trio", dial, answer), arguments().parse_args())
