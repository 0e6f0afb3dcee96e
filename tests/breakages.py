"""The library, broken on purpose in one place at a time; and whether the tests of the kit notice.

    python -m tests.breakages [--write] [--jobs 2] [name…]

Each breakage is a piece of the sources and what stands there instead. A copy of peer/ and protocol/ gets one of
them, and the tests that look at a peer with the kit alone (KIT_TESTS) run against that copy. It is caught where
one of them fails with an assertion; a copy that cannot be imported, or tests that break down, catch nothing. Exit
status 1 where one is not caught. --write: docs/breakages.md, which has all of them, is written anew.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final, NamedTuple
from xml.etree import ElementTree

ROOT: Final = Path(__file__).parents[1]
DOCUMENT: Final = ROOT / "docs" / "breakages.md"
LEAST: Final = 30
"""Breakages. A list with fewer has lost some."""

KIT_TESTS: Final = (
    "tests/testing/test_right_peers.py",
    "tests/testing/test_impostors.py",
    "tests/testing/test_strangers.py",
)
"""What runs, in this order, up to the first that fails; but for _NOT_THESE."""

_NOT_THESE: Final = "not leaves_a_check_out and not left_out and not command_line"
"""Tests that break the library themselves, or start a process of it."""

_PACKAGES: Final = ("peer/trishake", "peer/pytest_trishake", "protocol/trishake_protocol")
_PATIENCE: Final = 180.0
"""Seconds for one run."""

_HEARD: Final = re.compile(r" \(the other side ended after [0-9a-f]+(?:\)|\.\.\.)")
"""Bytes that are others in every run."""

_WIDEST: Final = 160
"""Characters of a message in a table."""


class Breakage(NamedTuple):
    """One place that is broken. lets: what an attacker can do then. old: occurs once in the file.

    by: the hostile peer that shows it, where other tests would notice before. Empty: whichever test is first.
    """

    name: str
    lets: str
    file: str
    old: str
    new: str
    by: str = ""


class Stale(ValueError):
    """The text that a breakage replaces does not occur exactly once: the list no longer fits the sources."""


class Outcome(NamedTuple):
    """What has become of one. test, message: of the test that failed; empty where it was not caught, and then
    problem says why.
    """

    breakage: Breakage
    test: str = ""
    message: str = ""
    problem: str = ""

    @property
    def caught(self) -> bool:
        return not self.problem


_GREETING: Final = "protocol/trishake_protocol/greeting.py"
_IDENTITY: Final = "protocol/trishake_protocol/identity.py"
_MESSAGES: Final = "protocol/trishake_protocol/messages.py"
_NOISE: Final = "protocol/trishake_protocol/noise.py"
_NETWORK: Final = "protocol/trishake_protocol/network.py"
_PEER_ID: Final = "protocol/trishake_protocol/peer_id.py"
_PRIMITIVES: Final = "protocol/trishake_protocol/primitives.py"
_RECORDS: Final = "protocol/trishake_protocol/records.py"
_SESSION: Final = "protocol/trishake_protocol/session.py"
_STREAMS: Final = "protocol/trishake_protocol/streams.py"
_ERRORS: Final = "protocol/trishake_protocol/errors.py"
_ADMISSION: Final = "peer/trishake/_admission.py"
_CONNECTION: Final = "peer/trishake/_connection.py"
_DRIVER: Final = "peer/trishake/_greeting.py"
_PEER: Final = "peer/trishake/_peer.py"
_REGISTRY: Final = "peer/trishake/_registry.py"
_TRUST: Final = "peer/trishake/_trust.py"

BREAKAGES: Final = (
    # --- who signed what --------------------------------------------------------------------------------
    Breakage(
        "signature not checked",
        "claim anybody's identity",
        _GREETING,
        "if len(signature) != SIGNATURE_LENGTH or not context.verify(peer, record, signature):",
        "if len(signature) != SIGNATURE_LENGTH:",
    ),
    Breakage(
        "transcript not signed",
        "use a signature again that it has seen on another connection",
        _IDENTITY,
        "                self.handshake_hash,\n                self.static_key,\n",
        "                self.static_key,\n",
        "stolen_static",
    ),
    Breakage(
        "static key not signed",
        "put its own Noise key under another's signature",
        _IDENTITY,
        "                self.handshake_hash,\n                self.static_key,\n",
        "                self.handshake_hash,\n",
    ),
    Breakage(
        "responder not signed",
        "pass a caller on to somebody whom he did not mean to call",
        _IDENTITY,
        'responder = b"" if self.responder is None else self.responder.key',
        'responder = b""',
        "misbinding",
    ),
    Breakage(
        "role not signed",
        "hand a listener's signature on as a dialer's",
        _IDENTITY,
        'b"trishake/1 " + role.value.encode() + b" identity\\x00"',
        'b"trishake/1 identity\\x00"',
    ),
    Breakage(
        "record not signed",
        "change what another says of itself",
        _IDENTITY,
        "                responder,\n                record,\n",
        "                responder,\n",
    ),
    Breakage(
        "expected identity not compared",
        "answer at another's address, under its own name",
        _GREETING,
        "if self._expected is not None and peer != self._expected:",
        "if False:",
        "squatter",
    ),
    Breakage(
        "own identity taken",
        "have a stolen key make a peer a stranger to itself",
        _GREETING,
        "if peer == self._identity.id:",
        "if False:",
    ),
    Breakage(
        "own dial not noticed",
        "lead a dialer back to its own listener",
        _SESSION,
        "if self._is_own_dial(ephemeral_key):",
        "if False:",
    ),
    Breakage(
        "small-order identity taken",
        "have a key under which one signature is good for every text",
        _PEER_ID,
        "if y in _SMALL_ORDER:",
        "if False:",
    ),
    Breakage(
        "non-canonical identity taken",
        "have two ids for one key, and be let in under the one that is not blocked",
        _PEER_ID,
        'if int.from_bytes(y, "little") >= _FIELD_PRIME:',
        "if False:",
    ),
    Breakage(
        "unknown algorithm taken",
        "have its key read as one of another kind",
        _GREETING,
        'if greeting.alg != "ed25519":',
        "if False:",
    ),
    # --- what a greeting says ---------------------------------------------------------------------------
    Breakage(
        "expiry ignored",
        "use a greeting for ever that its owner has limited",
        _GREETING,
        "if greeting.exp is not None and self.now > greeting.exp + EXPIRY_ALLOWANCE:",
        "if False:",
    ),
    Breakage(
        "offers of the preface not compared",
        "strike a better suite out of what a dialer offers, unseen",
        _GREETING,
        "if greeting.offers != self._preface.offers:",
        "if False:",
        "offers_stripper",
    ),
    Breakage(
        "version of the preface not compared",
        "strike a higher version out of what a dialer offers, unseen",
        _GREETING,
        "if greeting.vers[1] != self._preface.version_max:",
        "if False:",
    ),
    Breakage(
        "best suite not insisted on",
        "have two peers speak the worst suite that they have",
        _GREETING,
        "if best is not self.suite:",
        "if False:",
    ),
    Breakage(
        "highest version not insisted on",
        "have two peers speak an older version than they could",
        _GREETING,
        "if not lowest <= VERSION == highest:",
        "if False:",
    ),
    Breakage(
        "padding not checked",
        "carry words that no signature covers",
        _MESSAGES,
        'if padding.strip(b"\\x00"):',
        "if False:",
    ),
    Breakage(
        "other encodings taken",
        "have one record read in two ways by two peers",
        _MESSAGES,
        "if _packb(checked) != data:",
        "if False:",
    ),
    Breakage(
        "critical key not understood",
        "be let in by a peer that does not know under which condition",
        _MESSAGES,
        'if key.startswith("!") and key not in fields:',
        "if False:",
    ),
    Breakage(
        "role in the record not checked",
        "send a greeting back in the other role",
        _MESSAGES,
        'if pairs["role"] != sender.value:',
        "if False:",
    ),
    # --- keys -------------------------------------------------------------------------------------------
    Breakage(
        "shared secret of zero taken",
        "know every key of the connection from the start",
        _NOISE,
        'raise HandshakeError("the DH result is all zero") from None',
        "shared_secret = bytes(32)",
    ),
    Breakage(
        "static key not proved",
        "take another's Noise key for its own without its private half",
        _NOISE,
        "        self._mix_dh(*((self.s, self.re) if self.role is Role.INITIATOR else (self.e, self.rs)))",
        "        pass",
        "key_misbinding",
    ),
    Breakage(
        "preface not bound",
        "change on the way what nobody looks at again",
        _NOISE,
        "        self._symmetric.mix_hash(prologue)\n",
        "",
        "preface_tamperer",
    ),
    Breakage(
        "network's name not bound",
        "come into one private network with the key of another",
        _NETWORK,
        '                len(name).to_bytes(2, "big"),\n                name,\n',
        "",
    ),
    Breakage(
        "network's key not mixed",
        "come into a private network without its key",
        _NOISE,
        "self._symmetric.mix_key_and_hash(self._psks[0])",
        "self._symmetric.mix_key_and_hash(bytes(32))",
    ),
    Breakage(
        "network's tag not compared",
        "have a listener do the work of a greeting for another network",
        _GREETING,
        "if preface.net_tag != network.tag:",
        "if False:",
    ),
    Breakage(
        "one ephemeral key for all",
        "say a whole greeting again that it has recorded",
        _NOISE,
        "            self.e = KeyPair()\n",
        "            kept = getattr(HandshakeState, 'kept', None) or KeyPair()\n"
        "            self.e = KeyPair() if self.role is Role.INITIATOR else kept\n"
        "            setattr(HandshakeState, 'kept', kept)\n",
    ),
    Breakage(
        "one key for both directions",
        "send a peer's own words back to it",
        _NOISE,
        "CipherState(self._cipher, temp_k1[:32]), CipherState(self._cipher, temp_k2[:32])",
        "CipherState(self._cipher, temp_k1[:32]), CipherState(self._cipher, temp_k1[:32])",
    ),
    Breakage(
        "nonce not advanced",
        "replay, drop and reorder records, and read what two of them have in common",
        _PRIMITIVES,
        'return b"\\x00\\x00\\x00\\x00" + n.to_bytes(8, "little")',
        "return bytes(12)",
        "record_replayer",
    ),
    Breakage(
        "tag not checked",
        "change any byte on the way",
        _PRIMITIVES,
        'CHACHAPOLY: Final = Cipher(name="ChaChaPoly", key=ChaCha20Poly1305, nonce=_little_endian_nonce)',
        """class _Unauthenticated:
    def __init__(self, key: bytes) -> None:
        self._key = key
        self.encrypt = ChaCha20Poly1305(key).encrypt

    def decrypt(self, nonce: bytes, data: bytes | memoryview, ad: bytes | None) -> bytes:
        from cryptography.hazmat.primitives import ciphers

        stream = ciphers.algorithms.ChaCha20(self._key, b"\\x01\\x00\\x00\\x00" + nonce)
        return ciphers.Cipher(stream, None).decryptor().update(bytes(data[:-16]))


CHACHAPOLY: Final = Cipher(name="ChaChaPoly", key=_Unauthenticated, nonce=_little_endian_nonce)""",
        "man_in_the_middle",
    ),
    # --- the verdict ------------------------------------------------------------------------------------
    Breakage(
        "every verdict taken for READY",
        "nothing; but who is rejected believes that he is in",
        _SESSION,
        "if verdict.code is VerdictCode.READY:",
        "if True:",
    ),
    Breakage(
        "verdict skipped",
        "have a dialer go on that was never let in",
        _SESSION,
        'raise RemoteProtocolError(f"the first record is {type_.name}, not VERDICT")',
        "self._machine.receive(Input.READY)\n            return Accepted(None, None)",
    ),
    Breakage(
        "second verdict taken",
        "decide again when all is decided",
        _SESSION,
        'raise RemoteProtocolError(f"a {type_.name} on an open session", reason=CloseCode.PROTOCOL)',
        "return None",
    ),
    Breakage(
        "ALERT taken for authenticated",
        "make a dialer believe, from anywhere on the way, that the other side has rejected it",
        _SESSION,
        "alert.code, False, retry_after",
        "alert.code, True, retry_after",
    ),
    Breakage(
        "ALERT answered by ALERT",
        "have two peers send each other refusals without end",
        _SESSION,
        "case State.AWAIT_SYN | State.AWAIT_ACK if type_ is not FrameType.ALERT:",
        "case State.AWAIT_SYN | State.AWAIT_ACK:",
    ),
    Breakage(
        "reason of a rejection not sent",
        "nothing; but who is rejected is told something else than why",
        _SESSION,
        "        verdict = Verdict(reason, retry_after, seen, text).encode()",
        "        verdict = Verdict(VerdictCode.POLICY, retry_after, seen, text).encode()",
    ),
    Breakage(
        "magic not checked",
        "be answered in whatever protocol it asks",
        _SESSION,
        "        if not self._inbox.startswith(limits.MAGIC):\n"
        "            raise ForeignProtocol(foreign_protocol(self._inbox))\n",
        "",
    ),
    Breakage(
        "quiet network not quiet",
        "find the listeners of a private network that wants none of them found",
        _SESSION,
        "if self._profile.network.quiet and not self._syn_opened:",
        "if False:",
    ),
    # --- frames and records -----------------------------------------------------------------------------
    Breakage(
        "length of a frame not bounded",
        "have a listener buffer 64 KiB for a SYN",
        _SESSION,
        "if header.length not in frame_bounds(header.type, self.suite):",
        "if header.length < frame_bounds(header.type, self.suite).start:",
    ),
    Breakage(
        "type of a record not checked",
        "have what nobody has specified read as data",
        _RECORDS,
        'raise RemoteProtocolError(f"record {n} is of unknown type {unpadded[-1]}", reason=CloseCode.PROTOCOL)',
        "type_ = RecordType.DATA",
    ),
    Breakage(
        "empty DATA taken",
        "keep a peer busy with records that carry nothing",
        _SESSION,
        'raise RemoteProtocolError("an empty DATA", reason=CloseCode.PROTOCOL)',
        "return None",
    ),
    Breakage(
        "CLOSE not required",
        "cut a stream short, and have it look whole",
        _SESSION,
        """        where = "without CLOSE: it was cut" if""",
        """        if state is State.OPEN:
            self._machine.receiving = Direction.CLOSED
            return
        where = "without CLOSE: it was cut" if""",
    ),
    # --- streams ----------------------------------------------------------------------------------------
    Breakage(
        "credit not enforced",
        "send more than a peer has room for",
        _STREAMS,
        "if frame.length > window:",
        "if False:",
    ),
    Breakage(
        "credit given before anybody reads",
        "fill the memory of a peer whose application is slow",
        _STREAMS,
        "            stream.receive_window -= length\n",
        "            stream.receive_window -= length\n            self.consume(frame.stream, length)\n",
    ),
    Breakage(
        "overflow of credit taken",
        "give a window that has no end",
        _STREAMS,
        "if stream.send_window + frame.length > MAX_WINDOW:",
        "if False:",
    ),
    Breakage(
        "streams not counted",
        "open as many streams as it likes",
        _STREAMS,
        "if self._leaving or len(self._streams) - self._open_by_us >= MAX_STREAMS:",
        "if self._leaving:",
    ),
    Breakage(
        "resets not counted",
        "have handlers started and thrown away, as fast as it can write",
        _CONNECTION,
        "if count > self._limits.resets_per_second and self._end is None:",
        "if False:",
    ),
    Breakage(
        "parity of streams not checked",
        "open streams under the other side's numbers",
        _STREAMS,
        "if id_ % 2 == self._our_parity or id_ <= self._last_theirs:",
        "if id_ <= self._last_theirs:",
    ),
    Breakage(
        "stream opened again",
        "open a stream under a number that has been used",
        _STREAMS,
        "if id_ % 2 == self._our_parity or id_ <= self._last_theirs:",
        "if id_ % 2 == self._our_parity:",
    ),
    Breakage(
        "data of a stream that is over taken",
        "send without end what counts against no window",
        _STREAMS,
        'raise _breach(f"DATA for stream {id_}, which is over")',
        "return STREAM_WINDOW",
    ),
    Breakage(
        "policy of a protocol ignored",
        "use what it is let in for to reach what it is not",
        _CONNECTION,
        "        elif isinstance(decision, Rejection):\n            why =",
        "        elif False:\n            why =",
    ),
    # --- policies ---------------------------------------------------------------------------------------
    Breakage(
        "policy not asked",
        "be let in by whoever listens",
        _DRIVER,
        "decision = await ask_policy(self.trust, introduction, self.limits.policy)",
        "decision: Decision = Acceptance()",
    ),
    Breakage(
        "listener's no ignored",
        "be let in by who has said no",
        _DRIVER,
        "            if isinstance(decision, Rejection):\n                session.reject(\n",
        "            if False:\n                session.reject(\n",
    ),
    Breakage(
        "dialer's no ignored",
        "be told who calls by who does not trust it",
        _DRIVER,
        "            if isinstance(decision, Rejection):\n                session.reject()\n",
        "            if False:\n                session.reject()\n",
    ),
    Breakage(
        "policy of a dial not asked",
        "be taken by a dial that was for somebody else",
        _PEER,
        "greeter = self._greeter(session, Wire.over(stream), trust or self._trust, trace)",
        "greeter = self._greeter(session, Wire.over(stream), self._trust, trace)",
    ),
    Breakage(
        "ACK before the policy",
        "learn who calls, whoever answers",
        _DRIVER,
        """            decision = await greeter.decide(event, Step.SYN_ACK_RECEIVED)
            if isinstance(decision, Rejection):
                session.reject()
                raise decision.refusal(event.peer)
            session.accept(optimistic=greeter.behind_ack is not None)
""",
        """            session.accept(optimistic=greeter.behind_ack is not None)
            greeter.queue()
            await greeter.wire.flush()
            decision = await greeter.decide(event, Step.SYN_ACK_RECEIVED)
            if isinstance(decision, Rejection):
                raise decision.refusal(event.peer)
""",
    ),
    Breakage(
        "policy that fails lets in",
        "be let in by making a policy fail",
        _TRUST,
        "            _log_failure(introduction)\n            return _failed()\n",
        "            _log_failure(introduction)\n            return accept()\n",
    ),
    Breakage(
        "policy not bounded in time",
        "hold a greeting as long as a policy hangs",
        _TRUST,
        "with trio.move_on_after(seconds):",
        'with trio.move_on_after(float("inf")):',
    ),
    # --- time and room ----------------------------------------------------------------------------------
    Breakage(
        "SYN not awaited in bounded time",
        "hold a slot with a connection that says nothing",
        _DRIVER,
        "greeter.scope.deadline = greeter.started + greeter.limits.syn\n",
        "greeter.scope.deadline = greeter.started + greeter.limits.greeting\n",
    ),
    Breakage(
        "greeting of a dialer not bounded in time",
        "hold a dialer for ever, and never say no",
        _DRIVER,
        """            greeter.scope.deadline = greeter.started + greeter.limits.greeting
            greeter.queue()
""",
        "            greeter.queue()\n",
    ),
    Breakage(
        "greeting of a listener not bounded in time",
        "hold a slot for ever with one message",
        _DRIVER,
        """            greeter.scope.deadline = greeter.started + greeter.limits.greeting
            greeter.phase = Phase.ACK
""",
        """            greeter.scope.deadline = float("inf")
            greeter.phase = Phase.ACK
""",
    ),
    Breakage(
        "deadline pushed back by bytes",
        "hold a slot for ever with a byte now and then",
        _DRIVER,
        "        self.heard_at = trio.current_time()\n        if data:",
        "        self.heard_at = trio.current_time()\n"
        "        self.scope.deadline = max(self.scope.deadline, self.heard_at + self.limits.syn)\n"
        "        if data:",
        "slow",
    ),
    Breakage(
        "slots not enforced",
        "have a listener greet a whole crowd at once",
        _ADMISSION,
        "if self._held >= limits.handshakes:",
        "if False:",
    ),
    Breakage(
        "slots not given back",
        "lock everybody out by having come once",
        _ADMISSION,
        "            self._admission.give_back(self._network)\n",
        "            pass\n",
    ),
    Breakage(
        "slots of an address not enforced",
        "take all slots from one address",
        _ADMISSION,
        "if network and self._held_by[network] >= limits.handshakes_per_address:",
        "if False:",
    ),
    Breakage(
        "rate of an address not enforced",
        "have a listener do nothing but greet it",
        _ADMISSION,
        "        return admitted\n",
        "        return True\n",
    ),
    Breakage(
        "connections not counted",
        "open connections until there is no room for anybody",
        _PEER,
        "if len(self._inbound) >= self._limits.connections:",
        "if False:",
    ),
    Breakage(
        "refusal not drained",
        "nothing; but a reset destroys the reason on its way",
        _DRIVER,
        "if not scope.cancelled_caught:",
        "if False:",
    ),
    # --- connections ------------------------------------------------------------------------------------
    Breakage(
        "silence not noticed",
        "vanish, and be taken for present for ever",
        _CONNECTION,
        "due = self._heard + limits.keepalive\n",
        "due = math.inf\n",
    ),
    Breakage(
        "answer to a ping not awaited",
        "vanish, and be asked for ever",
        _CONNECTION,
        "due = self._asked + limits.keepalive_answer",
        "due = math.inf",
    ),
    Breakage(
        "duplicate taken",
        "push a connection that lives out, by dialing once more with a stolen key",
        _REGISTRY,
        "if _crosses(oldest, since) or await self._is_alive(oldest):",
        "if _crosses(oldest, since):",
    ),
    Breakage(
        "dead connection kept",
        "nothing; but who has crashed is locked out by its own ghost",
        _REGISTRY,
        "if _crosses(oldest, since) or await self._is_alive(oldest):",
        "if True:",
    ),
    Breakage(
        "crossing not resolved",
        "nothing; but two peers that dial each other at once push each other out",
        _REGISTRY,
        "if self._own_id.key > peer.key and await self._own_dial_gets_there(peer, since):",
        "if False:",
    ),
    # --- what is shown ----------------------------------------------------------------------------------
    Breakage(
        "text not escaped",
        "write into the terminal of whoever reads the error",
        _ERRORS,
        "if char in _BIDI_CONTROLS or unicodedata.category(char) in _UNSAFE",
        "if False",
    ),
    Breakage(
        "network's key shown",
        "read it in a log",
        _NETWORK,
        "psk: bytes | tuple[bytes, ...] | None = field(default=None, repr=False)",
        "psk: bytes | tuple[bytes, ...] | None = field(default=None)",
    ),
)
"""All of them."""


def broken(breakage: Breakage, text: str) -> str:
    """The text of its file, broken. Raises Stale."""
    found = text.count(breakage.old)
    if found != 1:
        raise Stale(
            f"{breakage.name!r}: its text occurs {found} times in {breakage.file}, expected once. "
            "Say what stands there now, or whether it can still be broken."
        )
    return text.replace(breakage.old, breakage.new)


def run(breakage: Breakage | None, tests: tuple[str, ...] = KIT_TESTS) -> Outcome:
    """Break a copy, and run the tests against it; against one that is whole, for None. Raises Stale."""
    unbroken = Breakage("nothing broken", "", "", "", "")
    with tempfile.TemporaryDirectory(prefix="breakage-") as directory:
        copy = Path(directory)
        for package in _PACKAGES:
            shutil.copytree(ROOT / package, copy / package, ignore=shutil.ignore_patterns("__pycache__"))
        if breakage is not None:
            file = copy / breakage.file
            file.write_text(broken(breakage, file.read_text("utf-8")), "utf-8")
        return _judged(breakage or unbroken, copy, tests)


def _judged(breakage: Breakage, copy: Path, tests: tuple[str, ...]) -> Outcome:
    report = copy / "report.xml"
    imported = _python(copy, "-c", "import trishake.testing, trishake.cli; print(trishake.testing.__file__)")
    if not imported.stdout.startswith(str(copy)):
        return Outcome(breakage, problem=f"the copy is not what is imported: {_last_line(imported)}")
    try:
        done = _python(
            copy,
            "-m",
            "pytest",
            "-x",
            "-q",
            *("-p", "no:cacheprovider", "-p", "no:trishake", "-p", "pytest_trishake"),
            *("-k", f"({_NOT_THESE}) and {breakage.by}" if breakage.by else _NOT_THESE),
            f"--junitxml={report}",
            *tests,
        )
    except subprocess.TimeoutExpired:
        return Outcome(breakage, problem=f"the tests have not ended after {_PATIENCE:g} s")
    if done.returncode == 0:
        return Outcome(breakage, problem="no test has failed")
    if done.returncode == 1:
        for case in ElementTree.parse(report).getroot().iter("testcase"):
            failure = case.find("failure")
            if failure is not None:
                return _failure(breakage, case.get("name", ""), failure.get("message", ""))
    return Outcome(breakage, problem=f"the tests have broken down: {_last_line(done)}")


def _failure(breakage: Breakage, test: str, message: str) -> Outcome:
    first = _HEARD.sub("", message.partition("\n")[0])
    if not first.startswith(("AssertionError", "assert ", "Failed: ")):
        return Outcome(breakage, test, first, f"{test} has broken down, and was to fail: {first}")
    return Outcome(breakage, test, first.removeprefix("AssertionError: ").removeprefix("Failed: "))


def _python(copy: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    paths = [str(copy / "peer"), str(copy / "protocol")]
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST", "PYTHON"))}
    beside = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT,
        env={
            **inherited,
            "PYTHONPATH": os.pathsep.join([*paths, *beside]),
            "PYTHONDONTWRITEBYTECODE": "1",
        },
        capture_output=True,
        text=True,
        timeout=_PATIENCE,
        check=False,
    )


def _last_line(done: subprocess.CompletedProcess[str]) -> str:
    lines = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()]
    return lines[-1] if lines else f"exit status {done.returncode}"


# --- the document ---------------------------------------------------------------------------------------

_INTRODUCTION: Final = """\
# The library, broken on purpose

Each row is a copy of the library with one place broken, and the first test that fails against it. These tests look
at a peer with nothing but [the kit](testing.md). `make breakages` runs them all again, and fails where one is not
caught; the list itself is [`tests/breakages.py`](../tests/breakages.py), and this table is written by
`python -m tests.breakages --write`.

| broken | what an attacker could do | in | caught by | which says |
|---|---|---|---|---|
"""


def document(outcomes: list[Outcome]) -> str:
    """docs/breakages.md."""
    return _INTRODUCTION + "".join(
        f"| {_cell(breakage.name)} | {_cell(breakage.lets)} | `{Path(breakage.file).name}` "
        f"| `{_cell(test)}` | {_cell(message)} |\n"
        for breakage, test, message, _ in outcomes
    )


def names_in(text: str) -> list[str]:
    """The first column of such a document."""
    rows = [line for line in text.splitlines() if line.startswith("| ")][1:]
    return [row.split(" | ")[0].removeprefix("| ") for row in rows]


def _cell(text: str) -> str:
    short = text if len(text) <= _WIDEST else text[: _WIDEST - 1] + "…"
    return short.replace("|", "\\|").replace("<", "&lt;")


def main() -> int:
    options = argparse.ArgumentParser(
        prog="python -m tests.breakages", description=(__doc__ or "").partition("\n\n")[2]
    )
    options.add_argument("--write", action="store_true", help="write docs/breakages.md anew")
    options.add_argument("--jobs", type=int, default=2, choices=(1, 2), help="copies at once (default: 2)")
    options.add_argument("name", nargs="*", help="all by default")
    given = options.parse_args()
    if sys.flags.optimize:
        options.error("without assertions no test can fail: run it without -O")
    known = {breakage.name: breakage for breakage in BREAKAGES}
    if unknown := [name for name in given.name if name not in known]:
        options.error(f"no such breakage: {', '.join(unknown)}; possible are {', '.join(known)}")
    if given.write and given.name:
        options.error("docs/breakages.md has all of them: --write goes without names")
    whole = run(None)
    if whole.problem != "no test has failed":
        print(f"against the library as it is: {whole.problem or whole.message}")
        return 1
    outcomes: list[Outcome] = []
    with ThreadPoolExecutor(given.jobs) as threads:
        for outcome in threads.map(run, [known[name] for name in given.name] or BREAKAGES):
            outcomes.append(outcome)
            verdict = f"{outcome.test}: {outcome.message}" if outcome.caught else f"NOT CAUGHT: {outcome.problem}"
            print(f"{outcome.breakage.name:<44} {verdict[:_WIDEST]}", flush=True)
    caught = sum(outcome.caught for outcome in outcomes)
    print(f"{caught} of {len(outcomes)} caught")
    if caught < len(outcomes):
        return 1
    if given.write:
        DOCUMENT.write_text(document(outcomes), "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
