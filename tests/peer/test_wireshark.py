"""protocol/wireshark/trishake.lua, run by the real tshark on what real sessions said.

Every connection of the tests stands in one capture, which is read twice: without the key log, and with it.
"""

from __future__ import annotations

import itertools
import os
import random
import shutil
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import pytest

from trishake_protocol import (
    AlertCode,
    CloseCode,
    Identity,
    Network,
    Profile,
    Role,
    Session,
    Suite,
    VerdictCode,
    Wait,
)
from trishake_protocol.limits import MUX
from trishake_protocol.messages import FrameType, RecordType, encode_frame
from trishake_protocol.noise import CipherState
from trishake_protocol.patterns import CLASSICAL, CLASSICAL_PSK, HYBRID, SUITES
from trishake_protocol.primitives import KeyPair
from trishake_protocol.records import RecordWriter

SCRIPT: Final = Path(__file__).parents[2] / "protocol" / "wireshark" / "trishake.lua"
TSHARK: Final = shutil.which("tshark")
DUMPCAP: Final = shutil.which("dumpcap")

pytestmark = pytest.mark.skipif(TSHARK is None, reason="tshark is not installed")

NOW: Final = 1_800_000_000
PSK: Final = bytes(range(32))
ADA: Final = Identity.from_seed(b"a" * 32, static_key=KeyPair(b"s" * 32))
BOB: Final = Identity.from_seed(b"b" * 32, static_key=KeyPair(b"t" * 32))

# --- captures -------------------------------------------------------------------------------------------

INITIATOR, RESPONDER = Role.INITIATOR, Role.RESPONDER
Said = list[tuple[Role, bytes]]
"""What was said on one connection, in order."""


class Capture:
    """A pcap file of TCP connections, each between two ports of its own."""

    def __init__(self) -> None:
        self._packets = [struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 262144, 101)]
        self.count = 0
        self.connections = 0

    def add(
        self,
        said: Iterable[tuple[Role, bytes]],
        *,
        segment: int = 60000,
        opened: bool = True,
        lose: Sequence[int] = (),
        port: int = 4711,
    ) -> int:
        """Returns the number of its TCP stream.

        segment: bytes of a packet at most. opened: whether the capture has its beginning. lose: which segments,
        from 0, were not captured.
        """
        ports = {INITIATOR: 10000 + self.connections, RESPONDER: port}
        next_byte = {INITIATOR: 1000, RESPONDER: 2000}
        if opened:
            self._packet(ports, INITIATOR, 999, 0, 0x02)
            self._packet(ports, RESPONDER, 1999, 1000, 0x12)
        number = 0
        for sender, data in said:
            for start in range(0, len(data), segment):
                part = data[start : start + segment]
                if number not in lose:
                    self._packet(ports, sender, next_byte[sender], next_byte[sender.other], 0x18, part)
                next_byte[sender] += len(part)
                number += 1
        self.connections += 1
        return self.connections - 1

    def _packet(
        self, ports: dict[Role, int], sender: Role, seq: int, ack: int, flags: int, data: bytes = b""
    ) -> None:
        source, target = (b"\x7f\0\0\1", b"\x7f\0\0\2") if sender is INITIATOR else (b"\x7f\0\0\2", b"\x7f\0\0\1")
        tcp = struct.pack(">HHIIBBHHH", ports[sender], ports[sender.other], seq, ack, 0x50, flags, 65535, 0, 0)
        header = struct.pack(">BBHHHBBH", 0x45, 0, 40 + len(data), 0, 0, 64, 6, 0) + source + target
        packet = header + tcp + data
        self._packets.append(struct.pack("<IIII", NOW, self.count, len(packet), len(packet)) + packet)
        self.count += 1

    def write(self, path: Path) -> Path:
        path.write_bytes(b"".join(self._packets))
        return path


def tshark(capture: Path, *options: str, environment: dict[str, str] | None = None) -> str:
    """Its output; no line of Lua may have failed."""
    assert TSHARK is not None
    run = subprocess.run(
        [TSHARK, "-X", f"lua_script:{SCRIPT}", "-n", "-r", str(capture), *options],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        env={**os.environ, "TRISHAKE_KEY_LOG": "", "HOME": str(capture.parent), **(environment or {})},
    )
    assert run.returncode == 0, run.stderr
    assert "lua" not in run.stderr.lower(), run.stderr
    assert "Lua Error" not in run.stdout
    return run.stdout


FIELDS: Final = (
    "tcp.stream",
    "_ws.col.Info",
    "_ws.expert.message",
    "trishake.greeting_id",
    "trishake.from_initiator",
    "trishake.version",
    "trishake.version_max",
    "trishake.suite",
    "trishake.offer",
    "trishake.net_tag",
    "trishake.ext",
    "trishake.type",
    "trishake.length",
    "trishake.e",
    "trishake.e1",
    "trishake.ekem1",
    "trishake.syn_tag",
    "trishake.s",
    "trishake.greeting",
    "trishake.alert",
    "trishake.alert.version_lowest",
    "trishake.alert.version_highest",
    "trishake.alert.suite",
    "trishake.alert.retry_after",
    "trishake.alert.detail",
    "trishake.static_key",
    "trishake.peer",
    "trishake.greeting.agent",
    "trishake.greeting.id",
    "trishake.greeting.app",
    "trishake.greeting.signature",
    "trishake.record.number",
    "trishake.record.type",
    "trishake.record.padding",
    "trishake.data",
    "trishake.verdict",
    "trishake.verdict.text",
    "trishake.verdict.seen",
    "trishake.verdict.retry",
    "trishake.close",
    "trishake.close.text",
    "trishake.ping",
    "trishake.mux.type",
    "trishake.mux.stream",
    "trishake.mux.protocol",
    "trishake.mux.answer",
)


class Dissected:
    """What tshark says of a capture: by TCP stream, a row for each packet that it found something in."""

    def __init__(self, output: str) -> None:
        self.rows: dict[int, list[dict[str, str]]] = {}
        for line in output.splitlines():
            row = dict(zip(FIELDS, line.split("\t"), strict=True))
            self.rows.setdefault(int(row["tcp.stream"]), []).append(row)

    def column(self, stream: int, field: str) -> list[str]:
        """Of each packet that has the field."""
        return [row[field] for row in self.rows.get(stream, []) if row[field]]

    def values(self, stream: int, field: str) -> list[str]:
        """Each value, of whatever packet."""
        return [value for packet in self.column(stream, field) for value in packet.split("|")]

    def info(self, stream: int) -> list[str]:
        return [row["_ws.col.Info"] for row in self.rows[stream] if row["trishake.from_initiator"]]

    def said(self, stream: int) -> list[str]:
        """What was dissected, frame by frame."""
        return ", ".join(self.info(stream)).split(", ")


def dissected(capture: Path, *options: str, environment: dict[str, str] | None = None) -> Dissected:
    fields = [word for field in FIELDS for word in ("-e", field)]
    shape = ["-T", "fields", "-E", "aggregator=|", "-E", "separator=/t"]
    return Dissected(tshark(capture, *options, *shape, *fields, environment=environment))


# --- connections ----------------------------------------------------------------------------------------


class Talk:
    """Two sessions that greet each other; what they say, and the lines of their key log."""

    def __init__(
        self,
        ours: Profile | None = None,
        theirs: Profile | None = None,
        *,
        suite: Suite = CLASSICAL,
        seed: int | None = None,
        **profile: Any,
    ) -> None:
        if ours is None:
            network = Network("home", PSK) if suite.pattern.psk else Network()
            ours = Profile(network, offers=(suite.id,), **profile)
        e = {role: None if seed is None else KeyPair(bytes([seed, i]) * 16) for i, role in enumerate(Role)}
        self.lines: list[str] = []
        self.said: Said = []
        self.ends = {
            INITIATOR: Session.initiator(ADA, ours, now=NOW, key_log=self.lines.append, ephemeral=e[INITIATOR]),
            RESPONDER: Session.responder(BOB, theirs or ours, now=NOW, ephemeral=e[RESPONDER]),
        }
        self.initiator, self.responder = self.ends.values()

    def go_on(self, change: dict[int, bytes] | None = None) -> Talk:
        """Carry bytes to and fro until neither has more to say. change: what the first flight has at an offset."""
        while True:
            silent = True
            for role, end in self.ends.items():
                data = end.data_to_send()
                for offset, new in (change or {}).items():
                    data = data[:offset] + new + data[offset + len(new) :]
                change = None
                if data:
                    silent = False
                    self.said.append((role, data))
                    self._read(self.ends[role.other], data)
            if silent:
                return self

    def _read(self, end: Session, data: bytes) -> None:
        end.receive_data(data)
        try:
            while not isinstance(end.next_event(), Wait):
                pass
        except Exception as error:  # noqa: BLE001
            self.error = error

    def greet(self) -> Talk:
        self.go_on()
        self.initiator.accept()
        self.go_on()
        self.responder.accept(seen="192.0.2.7:4711", text="come in")
        return self.go_on()

    @property
    def e(self) -> str:
        return self.lines[0].split(" ")[1]


def accepted(suite: Suite) -> Talk:
    talk = Talk(suite=suite, agent="näve/1", app=b"\x00app", ext=b"later").greet()
    talk.initiator.send(b"hello bob")
    talk.go_on()
    talk.responder.send(b"hello ada")
    talk.responder.ping(b"8 bytes!")
    talk.go_on()
    talk.initiator.finish()
    talk.responder.close(CloseCode.POLICY, "enough")
    return talk.go_on()


def streams() -> Talk:
    talk = Talk(caps=(MUX,), suite=HYBRID).greet()
    ada, bob = talk.initiator.carry_streams(), talk.responder.carry_streams()
    first = ada.open("chat/1")
    talk.go_on()
    bob.accept(first)
    talk.go_on()
    ada.send(first, b"hello bob")
    second = bob.open("file/2")
    talk.go_on()
    ada.refuse(second, "not now")
    talk.go_on()
    ada.send(first, b"x" * 70000)  # more than a record holds
    talk.go_on()
    ada.finish(first)
    return talk.go_on()


def refused(suite: Suite = CLASSICAL) -> dict[str, Said]:
    """A connection for each ALERT, by what is said of it."""
    public, other = Profile(offers=(suite.id,)), Profile(Network("other"), offers=(suite.id,))
    private = Profile(Network("home", PSK), offers=(CLASSICAL_PSK.id,))
    wrong_key = Profile(Network("home", bytes(32)), offers=(CLASSICAL_PSK.id,))
    syn = f"preface v1, SYN ({suite.noise_name.split('_ChaCha')[0].removeprefix('Noise_')})"
    aborted = Talk(public).go_on()
    aborted.initiator.reject()
    found = {
        f"{syn}, SYN-ACK, ALERT ABORTED": aborted.go_on().said,
        f"{syn}, ALERT WRONG_NETWORK": Talk(public, other).go_on().said,
        f"{syn}, ALERT UNSUPPORTED_SUITE, enabled 0x0002": Talk(public, Profile(offers=(2,))).go_on().said,
        "preface v1, SYN (XXpsk0_25519), ALERT HANDSHAKE_FAILED": Talk(private, wrong_key).go_on().said,
        "malformed: A preface of version 2, ALERT UNSUPPORTED_VERSION, speaks 1 to 1": (
            Talk(public).go_on({4: b"\x02\x02"}).said
        ),
        "malformed: 9 offers, 1 to 8 are allowed, ALERT MALFORMED": Talk(public).go_on({8: b"\x09"}).said,
    }
    for code in (AlertCode.BUSY, AlertCode.TIMEOUT, AlertCode.GOING_AWAY):
        talk = Talk(public).go_on()
        talk.responder.refuse(code, retry_after=3 if code is AlertCode.BUSY else None)
        advice = ", retry after 3 s" if code is AlertCode.BUSY else ""
        found[f"{syn}, SYN-ACK, ALERT {code.name}{advice}"] = talk.go_on().said
    return found


# --- one capture of them all ----------------------------------------------------------------------------


class Everything:
    """The connections, and what tshark says of each without keys (`plain`) and with them (`keyed`)."""

    def __init__(self, directory: Path) -> None:
        capture = Capture()
        self.accepted = {suite.id: accepted(suite) for suite in SUITES.values()}
        self.stream = {id_: capture.add(talk.said) for id_, talk in self.accepted.items()}
        self.refused = refused()
        self.refused_stream = {what: capture.add(said) for what, said in self.refused.items()}
        self.mux = streams()
        self.mux_stream = capture.add(self.mux.said)
        self.rejected = Talk(seed=3).go_on()
        self.rejected.initiator.accept()
        self.rejected.go_on()
        self.rejected.responder.reject(VerdictCode.CAPACITY, text="full\x1b[2J", retry_after=7)
        self.rejected_stream = capture.add(self.rejected.go_on().said)

        # The same bytes, cut otherwise.
        self.cut = accepted(CLASSICAL)
        self.bytewise_stream = capture.add(self.cut.said, segment=1)
        self.piecewise_stream = capture.add(self.cut.said, segment=7)
        flights = [
            (role, b"".join(d for _, d in group)) for role, group in itertools.groupby(self.cut.said, _sender)
        ]
        self.joined_stream = capture.add(flights)

        # Where a segment ends one record, has others whole, and begins one more, TCP hands it over in parts.
        self.crumbs = Talk().greet()
        for n in range(30):
            self.crumbs.initiator.send(bytes([n]))
        self.crumbs_stream = capture.add(self.crumbs.go_on().said, segment=70)

        # What is not all there.
        self.lossy = Talk(seed=1).greet()
        for n in range(6):
            self.lossy.initiator.send(b"%d" % n * 40)
            self.lossy.go_on()
        self.lossy_stream = capture.add(self.lossy.said, lose=[5])
        self.middle_stream = capture.add(self.cut.said[3:], opened=False)
        busy = encode_frame(FrameType.ALERT, bytes.fromhex("050009"))
        self.busy_stream = capture.add([(RESPONDER, busy), self.cut.said[0]])
        self.wrong_key = Talk(seed=2).greet()
        self.wrong_key_stream = capture.add(self.wrong_key.said)

        # What is not Trishake, or not for long.
        self.foreign_stream = capture.add(
            [(INITIATOR, "🤝 hello".encode()), (RESPONDER, b"\x10\x00\x10" + bytes(16))]
        )
        flight = self.cut.said[0][1]
        self.malformed = {
            "A frame of unknown type 0x47": [(INITIATOR, flight), (RESPONDER, b"GET / HTTP/1.1\r\n\r\n")],
            "SYN of 33 bytes, allowed are 32": [(INITIATOR, flight[:-35] + b"\x01\x00\x21" + bytes(33))],
            "RECORD of 15 bytes, allowed are 16 to 65535": [(INITIATOR, flight), (RESPONDER, b"\x10\x00\x0f")],
            "ALERT of 66 bytes, allowed are 1 to 65": [(INITIATOR, flight), (RESPONDER, b"\x7f\x00\x42")],
            "This is no preface: its magic is another": [(INITIATOR, flight + b"\xf0\x9f\x00\x00")],
            "A highest version below the version": [(INITIATOR, flight[:5] + b"\x00" + flight[6:])],
            "An extension of 257 bytes, 256 are allowed": [(INITIATOR, flight[:9] + b"\x01\x01" + flight[11:])],
            "SYN of a suite that is not known": [
                (INITIATOR, flight[:6] + b"\x12\x34" + flight[8:19] + b"\x12\x34" + flight[21:])
            ],
        }
        self.malformed_stream = {what: capture.add(said) for what, said in self.malformed.items()}
        self.path = capture.write(directory / "everything.pcap")

        self.keys = directory / "keys.txt"
        logged = [*self.accepted.values(), self.mux, self.rejected, self.cut, self.crumbs, self.lossy]
        wrong = [line[:-64] + "00" * 32 for line in self.wrong_key.lines]
        lines = ["# a comment", "TRISHAKE_INITIATOR_TRAFFIC 00 11", *wrong]
        lines += [line for talk in logged for line in talk.lines]
        self.keys.write_text("\n".join([*lines, ""]))

        self.plain = dissected(self.path)
        # Twice over, as when somebody clicks on a packet. Without a filter tshark leaves the first time out.
        self.keyed = dissected(self.path, "-2", "-Y", "tcp", "-o", f"trishake.key_log_file:{self.keys}")


def _sender(said: tuple[Role, bytes]) -> Role:
    return said[0]


@pytest.fixture(scope="session")
def all_of_it(tmp_path_factory: pytest.TempPathFactory) -> Everything:
    return Everything(tmp_path_factory.mktemp("wireshark"))


SUITE_IDS = pytest.mark.parametrize("id_", SUITES, ids=lambda id_: f"0x{id_:04x}")

# --- without keys ---------------------------------------------------------------------------------------


@SUITE_IDS
def test_a_greeting_is_taken_apart_by_the_sizes_of_its_suite(all_of_it: Everything, id_: int) -> None:
    plain, stream, talk, suite = all_of_it.plain, all_of_it.stream[id_], all_of_it.accepted[id_], SUITES[id_]
    flight, syn_ack, ack = (data for _, data in talk.said[:3])
    short = suite.noise_name.removeprefix("Noise_").removesuffix("_ChaChaPoly_SHA256")
    assert plain.info(stream)[:3] == [f"preface v1, SYN ({short})", "SYN-ACK", "ACK"]
    assert plain.values(stream, "trishake.suite") == [f"0x{id_:04x}"]
    assert plain.values(stream, "trishake.offer") == [f"0x{id_:04x}"]
    assert plain.values(stream, "trishake.version") == plain.values(stream, "trishake.version_max") == ["1"]
    assert plain.values(stream, "trishake.net_tag") == [flight[11:19].hex()]
    assert plain.values(stream, "trishake.ext") == [b"later".hex()]
    assert plain.values(stream, "trishake.type")[:3] == ["0x01", "0x02", "0x03"]
    syn, after_e = flight[29:], suite.syn_ack - 64 - 3 + 3
    parts = {
        "trishake.e": [syn[:32], syn_ack[3:35]],
        "trishake.e1": [syn[32 : suite.syn - 16 * suite.pattern.psk]] if suite.syn > 48 else [],
        "trishake.syn_tag": [syn[-16:]] if suite.pattern.psk else [],
        "trishake.ekem1": [syn_ack[35 : 3 + after_e]] if suite.syn > 48 else [],
        "trishake.s": [syn_ack[3 + after_e :][:48], ack[3:51]],
        "trishake.greeting": [syn_ack[51 + after_e :], ack[51:]],
    }
    for field, expected in parts.items():
        assert plain.values(stream, field) == [part.hex() for part in expected], field


@SUITE_IDS
def test_records_without_a_key_are_lengths(all_of_it: Everything, id_: int) -> None:
    stream, talk = all_of_it.stream[id_], all_of_it.accepted[id_]
    lengths = [length for _, data in talk.said[3:] for length in _lengths(data)]
    assert all_of_it.plain.said(stream)[4:] == [f"RECORD {length}" for length in lengths]
    assert all_of_it.plain.values(stream, "trishake.record.type") == []
    assert not [told for told in all_of_it.plain.column(stream, "_ws.expert.message") if "Connection" not in told]


def _lengths(data: bytes) -> Iterator[int]:
    while data:
        length = int.from_bytes(data[1:3], "big")
        yield length
        data = data[3 + length :]


@SUITE_IDS
def test_every_packet_from_the_syn_on_names_the_greeting_and_its_sender(all_of_it: Everything, id_: int) -> None:
    stream, talk = all_of_it.stream[id_], all_of_it.accepted[id_]
    count = len(talk.said)
    assert all_of_it.plain.values(stream, "trishake.greeting_id") == [talk.e[:16]] * count
    by_initiator = [str(int(role is INITIATOR)) for role, _ in talk.said]
    assert all_of_it.plain.values(stream, "trishake.from_initiator") == by_initiator


@pytest.mark.parametrize("what", refused())
def test_an_alert_is_named_with_its_detail(all_of_it: Everything, what: str) -> None:
    stream = all_of_it.refused_stream[what]
    assert ", ".join(all_of_it.plain.info(stream)) == what
    code = AlertCode[what.split("ALERT ")[1].split(",")[0]]
    assert all_of_it.plain.values(stream, "trishake.alert") == [f"0x{code.value:02x}"]
    details = {
        AlertCode.BUSY: ("trishake.alert.retry_after", "3"),
        AlertCode.UNSUPPORTED_VERSION: ("trishake.alert.version_highest", "1"),
        AlertCode.UNSUPPORTED_SUITE: ("trishake.alert.suite", f"0x{HYBRID.id:04x}"),
    }
    for each, (field, value) in details.items():
        assert all_of_it.plain.values(stream, field) == ([value] if code is each else [])
    assert f"ALERT {code.name}" in "".join(all_of_it.plain.column(stream, "_ws.expert.message"))


def test_busy_may_come_before_anything_was_read(all_of_it: Everything) -> None:
    assert all_of_it.plain.info(all_of_it.busy_stream)[0] == "ALERT BUSY, retry after 9 s"
    assert all_of_it.plain.values(all_of_it.busy_stream, "trishake.from_initiator") == ["0", "1"]


# --- however it comes -----------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["bytewise", "piecewise", "joined"])
@pytest.mark.parametrize("keys", ["plain", "keyed"])
def test_the_segments_that_it_came_in_do_not_matter(all_of_it: Everything, how: str, keys: str) -> None:
    result: Dissected = getattr(all_of_it, keys)
    stream, whole = getattr(all_of_it, f"{how}_stream"), all_of_it.stream[CLASSICAL.id]
    for field in ("trishake.e", "trishake.s", "trishake.greeting"):
        assert len(result.values(stream, field)) == len(result.values(whole, field))
    kinds = [word.split(" of ")[0] for word in result.said(stream)]
    assert kinds == [word.split(" of ")[0] for word in result.said(whole)]
    assert set(result.values(stream, "trishake.greeting_id")) == {all_of_it.cut.e[:16]}
    assert result.column(stream, "trishake.data") == result.column(whole, "trishake.data")


def test_a_packet_that_ends_one_record_and_has_others_shows_them_all(all_of_it: Everything) -> None:
    keyed, stream = all_of_it.keyed, all_of_it.crumbs_stream
    assert keyed.said(stream)[-30:] == ["DATA 1"] * 30
    assert keyed.values(stream, "trishake.data") == [f"{n:02x}" for n in range(30)]
    assert all_of_it.plain.said(stream)[-30:] == ["RECORD 18"] * 30


def test_a_capture_that_begins_in_the_middle_is_left_alone(all_of_it: Everything) -> None:
    assert all_of_it.plain.rows[all_of_it.middle_stream]
    assert all_of_it.plain.info(all_of_it.middle_stream) == []


def test_another_protocol_that_begins_with_the_sign_is_left_alone(all_of_it: Everything) -> None:
    assert all_of_it.plain.info(all_of_it.foreign_stream) == []


@pytest.mark.parametrize("keys", ["plain", "keyed"])
def test_what_is_malformed_is_said_to_be_so(all_of_it: Everything, keys: str) -> None:
    result: Dissected = getattr(all_of_it, keys)
    for what, stream in all_of_it.malformed_stream.items():
        assert result.info(stream)[-1].endswith(f"malformed: {what}")
        assert what in result.column(stream, "_ws.expert.message")[-1]


# --- with keys ------------------------------------------------------------------------------------------


@SUITE_IDS
def test_a_key_log_opens_both_greetings(all_of_it: Everything, id_: int) -> None:
    keyed, stream = all_of_it.keyed, all_of_it.stream[id_]
    assert keyed.values(stream, "trishake.greeting.id") == [BOB.id.key.hex(), ADA.id.key.hex()]
    assert keyed.values(stream, "trishake.peer") == [str(BOB.id), str(ADA.id)]
    assert keyed.values(stream, "trishake.static_key") == [
        BOB.static_key.public.hex(),
        ADA.static_key.public.hex(),
    ]
    assert keyed.values(stream, "trishake.greeting.agent") == ["näve/1"] * 2
    assert keyed.values(stream, "trishake.greeting.app") == [b"\x00app".hex()] * 2
    assert [len(value) for value in keyed.values(stream, "trishake.greeting.signature")] == [128, 128]
    padding = [bytes.fromhex(value) for value in keyed.values(stream, "trishake.record.padding")]
    assert [value.strip(b"\x00") for value in padding] == [b"", b""]
    assert keyed.info(stream)[1] == rf'SYN-ACK of {str(BOB.id)[:8]}... "n\xc3\xa4ve/1"'


@SUITE_IDS
def test_a_key_log_opens_every_record(all_of_it: Everything, id_: int) -> None:
    keyed, stream = all_of_it.keyed, all_of_it.stream[id_]
    assert keyed.said(stream)[4:] == [
        'VERDICT READY "come in"',
        "DATA 9",
        "DATA 9",
        "PING asks",
        "PING answers",
        "CLOSE NORMAL",
        'CLOSE POLICY "enough"',
    ]
    assert keyed.values(stream, "trishake.data")[:2] == [b"hello bob".hex(), b"hello ada".hex()]
    assert keyed.values(stream, "trishake.verdict") == ["0x0000"]
    assert keyed.values(stream, "trishake.verdict.seen") == ["192.0.2.7:4711"]
    assert keyed.values(stream, "trishake.ping")[0] == b"8 bytes!".hex()
    assert keyed.values(stream, "trishake.close")[:2] == ["0", "8"]
    assert keyed.values(stream, "trishake.close.text") == ["enough"]


def test_a_verdict_that_rejects_says_why_and_cannot_write_on_the_terminal(all_of_it: Everything) -> None:
    keyed, stream = all_of_it.keyed, all_of_it.rejected_stream
    assert keyed.said(stream)[-2:] == [r'VERDICT CAPACITY "full\x1b[2J"', "CLOSE NORMAL"]
    assert keyed.values(stream, "trishake.verdict") == ["0x0303"]
    assert keyed.values(stream, "trishake.verdict.retry") == ["7"]
    assert "VERDICT CAPACITY" in keyed.column(stream, "_ws.expert.message")[-1]


def test_streams_are_read_inside_the_records(all_of_it: Everything) -> None:
    keyed, stream = all_of_it.keyed, all_of_it.mux_stream
    said = ", ".join(keyed.info(stream)[4:])
    for each in (
        'DATA 19 (DATA SYN #1, "chat/1")',
        "DATA 13 (DATA ACK #1, accepted)",
        "DATA 21 (DATA #1)",
        'DATA 19 (DATA SYN #2, "file/2")',
        "DATA 33 (DATA ACK #2, refused, WINDOW_UPDATE FIN #2)",
        "DATA 12 (WINDOW_UPDATE FIN #2)",
        "DATA 35006 (DATA #1), DATA 35006",
    ):
        assert each in said
    assert said.endswith("DATA 12 (WINDOW_UPDATE FIN #1)")
    assert keyed.values(stream, "trishake.mux.protocol") == ["chat/1", "file/2"]
    assert keyed.values(stream, "trishake.mux.answer") == ["0", "2"]
    assert b"hello bob".hex() in keyed.values(stream, "trishake.data")
    assert {"1", "2"} == set(keyed.values(stream, "trishake.mux.stream"))
    assert not [told for told in keyed.column(stream, "_ws.expert.message") if "Connection" not in told]


def test_what_follows_a_lost_packet_is_said_not_to_decrypt(all_of_it: Everything) -> None:
    keyed, stream = all_of_it.keyed, all_of_it.lossy_stream
    said = keyed.said(stream)
    assert said.count("DATA 40") < 5
    assert "packets are missing before it" in "".join(keyed.column(stream, "_ws.expert.message"))
    assert keyed.values(stream, "trishake.greeting.id") == [BOB.id.key.hex(), ADA.id.key.hex()]


def test_the_keys_of_another_connection_open_nothing(all_of_it: Everything) -> None:
    keyed, stream = all_of_it.keyed, all_of_it.wrong_key_stream
    assert keyed.said(stream)[2:4] == ["SYN-ACK", "ACK"]
    assert keyed.values(stream, "trishake.greeting.id") == []
    told = keyed.column(stream, "_ws.expert.message")
    assert len([each for each in told if "comes out" in each]) == 3


def test_without_a_key_log_nothing_is_decrypted(all_of_it: Everything) -> None:
    for stream in (*all_of_it.stream.values(), all_of_it.mux_stream, all_of_it.rejected_stream):
        for field in ("trishake.data", "trishake.verdict", "trishake.peer", "trishake.mux.type", "trishake.close"):
            assert all_of_it.plain.values(stream, field) == []


# --- settings -------------------------------------------------------------------------------------------


def test_the_key_log_of_the_environment_is_the_default(all_of_it: Everything, tmp_path: Path) -> None:
    talk = all_of_it.accepted[HYBRID.id]
    capture = Capture()
    capture.add(talk.said)
    path = capture.write(tmp_path / "one.pcap")
    result = dissected(path, environment={"TRISHAKE_KEY_LOG": str(all_of_it.keys)})
    assert result.values(0, "trishake.peer") == [str(BOB.id), str(ADA.id)]
    # A directory, a missing file: as if there were none.
    for unreadable in (tmp_path, tmp_path / "missing"):
        result = dissected(path, environment={"TRISHAKE_KEY_LOG": str(unreadable)})
        assert result.info(0)[1] == "SYN-ACK"


def test_the_port_may_be_named_and_tcp_told_not_to_reassemble(all_of_it: Everything, tmp_path: Path) -> None:
    capture = Capture()
    capture.add(all_of_it.cut.said)
    capture.add(all_of_it.cut.said, segment=20)
    capture.add(all_of_it.cut.said[3:], opened=False)
    path = capture.write(tmp_path / "named.pcap")
    options = ["-d", "tcp.port==4711,trishake", "--disable-heuristic", "trishake_tcp"]
    result = dissected(path, *options, "-o", "tcp.desegment_tcp_streams:FALSE")
    assert result.said(0) == all_of_it.plain.said(all_of_it.stream[CLASSICAL.id])
    assert "incomplete" in result.said(1)
    assert "20 bytes, not followed" in ", ".join(result.info(1))
    assert result.info(2) == []


# --- anything -------------------------------------------------------------------------------------------


def changed(data: bytes, chance: random.Random) -> bytes:
    """The data with a few bytes changed, or cut out, or put in."""
    result = bytearray(data)
    for _ in range(chance.randrange(1, 4)):
        at = chance.randrange(len(result) + 1)
        new = chance.choice([b"", chance.randbytes(chance.randrange(1, 9)), b"\x00\x00", b"\xff\xff", b"\x10"])
        result[at : at + chance.choice([0, len(new), 1])] = new
    return bytes(result)


def resealed(talk: Talk, chance: random.Random) -> Said:
    """The greeting, and records behind it that open, and hold anything."""
    keys = {line.split(" ")[0]: bytes.fromhex(line.split(" ")[2]) for line in talk.lines}
    writers = {role: RecordWriter(CipherState(key=keys[f"TRISHAKE_{role.name}_TRAFFIC"])) for role in Role}
    said = talk.said[:3]
    contents = [
        b"\x81\xa4code\xcf" + b"\xff" * 8,
        b"\x81\xa4code\xd3" + b"\xff" * 8,
        b"\x91" * 300,
        b"\x81\x80\x80",
    ]
    contents.append(b"\x81\xa1a" + b"\x91" * 1500 + b"\xc0")
    contents += [b"\xdf\xff\xff\xff\xff", b"\xc6\xff\xff\xff\xff", b"\x82\xa4code\xa0\xa4text\xa0", b"", b"\xc0"]
    for _ in range(20):
        role = chance.choice(list(Role))
        kind = chance.choice([*RecordType, 9])
        mux = struct.pack(">BBHII", 0, chance.randrange(5), chance.randrange(16), chance.randrange(4), 5)
        noise = chance.randbytes(chance.randrange(40))
        content = chance.choice([*contents, noise, mux, mux + noise, mux[:7]])
        said.append((role, writers[role].encode(kind, content, chance.choice([0, 0, 7]))))  # type: ignore[arg-type]
    return said


def test_whatever_bytes_come_no_line_of_the_dissector_fails(all_of_it: Everything, tmp_path: Path) -> None:
    chance = random.Random(4711)
    capture = Capture()
    talks = [*all_of_it.accepted.values(), all_of_it.mux]
    for i in range(200):
        talk = chance.choice(talks)
        said = [
            (role, data) if chance.random() < 0.6 else (role, changed(data, chance))
            for role, data in talk.said[:9]
        ]
        if i % 4 == 0:
            said = resealed(all_of_it.mux if i % 8 else talk, chance)
        elif i % 4 == 1:
            whose, magic = chance.choice(list(Role)), b"\xf0\x9f\xa4\x9d\x01\x01"
            said = [(whose, magic + chance.randbytes(60)), (whose.other, chance.randbytes(60))]
        lose = [chance.randrange(9)] if i % 8 == 7 else []
        capture.add([each for each in said if each[1]], segment=chance.choice([60000, 999, 50]), lose=lose)
    path = capture.write(tmp_path / "anything.pcap")
    output = tshark(path, "-V", "-o", f"trishake.key_log_file:{all_of_it.keys}")
    # It was looked at, and not left alone.
    for word in (
        "A frame of unknown type",
        "No record comes out",
        "No greeting comes out",
        "This is no msgpack map",
    ):
        assert word in output
    tshark(path, "-2", "-Y", "trishake", "-o", f"trishake.key_log_file:{all_of_it.keys}")


def test_a_capture_of_cut_packets_is_shown_as_far_as_it_goes(all_of_it: Everything, tmp_path: Path) -> None:
    capture = Capture()
    capture.add(all_of_it.accepted[HYBRID.id].said)
    path = capture.write(tmp_path / "whole.pcap")
    editcap = shutil.which("editcap")
    if editcap is None:
        pytest.skip("editcap is not installed")
    subprocess.run([editcap, "-s", "200", str(path), str(tmp_path / "cut.pcap")], check=True)
    result = dissected(tmp_path / "cut.pcap")
    assert result.info(0)[0] == "preface v1, incomplete"


# --- slow -----------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_second_key_of_a_direction_opens_what_was_sent_under_it(tmp_path: Path) -> None:
    talk = Talk().greet()
    for n in range(65536 + 3):
        talk.initiator.send(b"%d" % n)
    talk.go_on()
    talk.initiator.finish(text="behind the rekey")
    talk.go_on()
    capture = Capture()
    capture.add(talk.said)
    path = capture.write(tmp_path / "long.pcap")
    keys = tmp_path / "keys.txt"
    keys.write_text("\n".join([*talk.lines, ""]))
    result = dissected(path, "-o", f"trishake.key_log_file:{keys}")
    data = [bytes.fromhex(value) for value in result.values(0, "trishake.data")]
    assert data == [b"%d" % n for n in range(65536 + 3)]
    assert result.values(0, "trishake.close.text") == ["behind the rekey"]


@pytest.mark.slow
@pytest.mark.skipif(DUMPCAP is None, reason="dumpcap is not installed")
def test_the_demo_is_read_as_it_happens_on_the_loopback(tmp_path: Path) -> None:
    assert DUMPCAP is not None
    path, keys = tmp_path / "demo.pcapng", tmp_path / "keys.txt"
    tmp_path.chmod(0o700)
    command = [DUMPCAP, "-q", "-i", "lo", "-f", "tcp", "-w", str(path)]
    dumpcap = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        assert dumpcap.stderr is not None
        told = ""
        while "File:" not in told:
            line = dumpcap.stderr.readline()
            told += line
            if not line:
                pytest.skip(f"we may not capture on the loopback: {told}")
        demo = subprocess.run(
            [sys.executable, "-m", "trishake", "demo"],
            env={
                **os.environ,
                "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
                "TRISHAKE_KEY_LOG": str(keys),
            },
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
        e = keys.read_text().split()[1]
        options = ["-Y", f'trishake.greeting_id == "{e[:16]}"', "-o", f"trishake.key_log_file:{keys}"]
        deadline = time.monotonic() + 30
        said: list[str] = []
        while (
            said.count("CLOSE NORMAL") < 2 and time.monotonic() < deadline
        ):  # the last are on their way to the file
            try:
                result = dissected(path, *options)
            except AssertionError as error:
                if "cut short in the middle of a packet" not in str(error):
                    raise
                continue
            said = result.said(next(iter(result.rows))) if result.rows else []
    finally:
        dumpcap.send_signal(signal.SIGINT)
        dumpcap.communicate(timeout=30)
    assert said[:2] == ["preface v1", "SYN (XXhfs_25519+MLKEM768)"]
    assert "VERDICT READY" in said
    assert said[-1] == "CLOSE NORMAL"
    stream = next(iter(result.rows))
    assert b"hello bob, is it you?".hex() in result.values(stream, "trishake.data")
    for peer in result.values(stream, "trishake.peer"):
        assert peer in demo.stdout
