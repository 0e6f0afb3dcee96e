"""Mutual TLS 1.3 on Trio's SSLStream, Ed25519 certificates, no session resumed.

As it is, each side's own certificate is pinned at the other: that comes nearest to a key as an identity, and is
the least work for TLS, with one signature and one verification on each side, and no tickets. The listener's end
counts from its verification of the dialer's certificate; the dialer's end, from its own last message: in TLS 1.3
only a read tells it whether it was accepted, and it does not read.

--told: the listener says so, with one byte, and the dialer reads it: what a Trishake dial knows when it returns.
--ca: certificates come from an authority that both sides trust, and tickets are as Python sends them: TLS as it
mostly is.
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

from benchmarks.measure import OverTcp, arguments, main, receive_all

LISTENER = "listener.example"
DIALER = "dialer.example"
AUTHORITY = "Authority"


def make_certificate(host: str, authority: Ed25519PrivateKey | None = None) -> tuple[bytes, bytes]:
    """(certificate, private key), PEM. authority: who signs it, if not the host itself."""
    key = Ed25519PrivateKey.generate()
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, host)])
    issuer = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, AUTHORITY if authority else host)])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(host)]), critical=False)
        .sign(authority or key, None)
    )
    return certificate.public_bytes(Encoding.PEM), key.private_bytes(
        Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()
    )


def make_authority(key: Ed25519PrivateKey) -> bytes:
    """Its certificate, PEM."""
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, AUTHORITY)])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, None)
    )
    return certificate.public_bytes(Encoding.PEM)


def make_context(purpose: ssl.Purpose, own: tuple[bytes, bytes], trusted: bytes) -> ssl.SSLContext:
    context = ssl.create_default_context(purpose, cadata=trusted.decode())
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.verify_mode = ssl.CERT_REQUIRED
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "pem").write_bytes(b"".join(own))
        context.load_cert_chain(Path(folder) / "pem")
    return context


if __name__ == "__main__":
    parser = arguments()
    parser.add_argument("--told", action="store_true", help="the listener tells the dialer that it is accepted")
    parser.add_argument("--ca", action="store_true", help="certificates from an authority, and tickets")
    options = parser.parse_args()
    if options.ca:
        authority = Ed25519PrivateKey.generate()
        listener, dialer = make_certificate(LISTENER, authority), make_certificate(DIALER, authority)
        trusted_by_dialer = trusted_by_listener = make_authority(authority)
    else:
        listener, dialer = make_certificate(LISTENER), make_certificate(DIALER)
        trusted_by_dialer, trusted_by_listener = listener[0], dialer[0]
    at_listener = make_context(ssl.Purpose.CLIENT_AUTH, listener, trusted_by_listener)
    at_dialer = make_context(ssl.Purpose.SERVER_AUTH, dialer, trusted_by_dialer)
    if not options.ca:
        at_listener.num_tickets = 0

    async def dial(transport: trio.SocketStream) -> trio.SSLStream[trio.SocketStream]:
        stream = trio.SSLStream(transport, at_dialer, server_hostname=LISTENER)
        await stream.do_handshake()
        if options.told:
            await receive_all(stream, 1)
        return stream

    async def answer(transport: trio.SocketStream) -> trio.SSLStream[trio.SocketStream]:
        stream = trio.SSLStream(transport, at_listener, server_side=True)
        await stream.do_handshake()
        if options.told:
            await stream.send_all(b"!")
        return stream

    name = f"tls{' told' * options.told}{' ca' * options.ca}"
    main(OverTcp(name, "import ssl, trio", dial, answer), options)
