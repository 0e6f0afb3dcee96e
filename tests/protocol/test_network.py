"""network.py: section 4."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from trishake_protocol import PRIVATE_SUITES, PUBLIC_SUITES, Network

from .conftest import PSK, RECORDINGS, TRISHAKE, unhex


@pytest.mark.parametrize("known", TRISHAKE["networks"], ids=lambda known: known["net_tag"])
def test_the_tag_of_a_public_network_is_that_of_its_name(known: dict[str, str]) -> None:
    assert Network(known["name"]).tag == unhex(known["net_tag"])


def test_the_tag_of_a_private_network_is_zero_whatever_its_name() -> None:
    assert Network("home", PSK).tag == Network("work", PSK).tag == bytes(8)


def test_a_network_with_something_replaced_has_the_tag_of_what_it_is_now() -> None:
    public = Network("home")
    assert replace(public, name="work").tag == Network("work").tag != public.tag
    assert replace(public, psk=PSK).tag == bytes(8)
    assert {public: "same"}[Network("home")] == "same"
    assert "tag" not in repr(public)


@pytest.mark.parametrize("name", RECORDINGS)
def test_the_prologue_binds_the_preface_and_the_name(name: str) -> None:
    vector = RECORDINGS[name].vector
    prologue = Network(vector["network"]).prologue(unhex(vector["preface"]))
    assert prologue == unhex(vector["prologue"])


@pytest.mark.parametrize("name", ["n", "n" * 64, "ø" * 32, "例え/テスト"])
def test_a_name_of_1_to_64_bytes_is_taken(name: str) -> None:
    assert Network(name).name == name


@pytest.mark.parametrize("name", ["", "n" * 65, "ø" * 33], ids=["empty", "65-bytes", "66-bytes-33-characters"])
def test_a_name_of_another_length_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="1 to 64 bytes of UTF-8"):
        Network(name)


@pytest.mark.parametrize("psk", [PSK, (PSK,), (PSK,) * 4], ids=["bytes", "one", "four"])
def test_a_private_network_has_up_to_four_keys(psk: Any) -> None:
    network = Network("home", psk)
    assert network.private
    assert network.psks[0] == PSK
    assert network.default_suites == PRIVATE_SUITES


@pytest.mark.parametrize("psk", [(), (PSK,) * 5], ids=["none", "five"])
def test_another_number_of_keys_is_refused(psk: Any) -> None:
    with pytest.raises(ValueError, match="1 to 4 keys"):
        Network("home", psk)


@pytest.mark.parametrize(
    "psk", [b"", PSK[:31], PSK + b"\x00", b"correct horse battery staple", (PSK, b"")], ids=range(5)
)
def test_a_key_of_another_length_is_refused_as_a_passphrase_would_be(psk: Any) -> None:
    with pytest.raises(ValueError, match="never a passphrase"):
        Network("home", psk)


def test_a_public_network_has_no_key_and_is_the_default() -> None:
    network = Network()
    assert (network.name, network.private, network.psks) == ("trishake", False, ())
    assert network.default_suites == PUBLIC_SUITES


def test_only_a_private_network_can_be_quiet() -> None:
    assert Network("home", PSK, quiet=True).quiet
    with pytest.raises(ValueError, match="only a private network"):
        Network(quiet=True)


def test_a_key_is_in_no_repr_also_of_what_holds_the_network() -> None:
    network = Network("home", (PSK, bytes(32)))
    for shown in (repr(network), str([replace(network, quiet=True)])):
        assert "home" in shown
        assert "psk" not in shown
        assert PSK.hex() not in shown
        assert repr(PSK)[2:-1] not in shown
