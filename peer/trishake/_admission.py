"""Admission: the cheap no, before any byte is read or any key is made (section 7, step 1)."""

from __future__ import annotations

import ipaddress
from collections import Counter
from types import TracebackType

from ._limits import Limits


class Busy(Exception):
    """No slot, or too fast. why: which. retry_after: seconds. Never leaves the listener."""

    def __init__(self, why: str, retry_after: int) -> None:
        super().__init__(why, retry_after)
        self.why = why
        self.retry_after = retry_after


class Slot:
    """A place for one greeting; given back once, by `release` or at the end of its `with` block."""

    def __init__(self, admission: Admission, network: str) -> None:
        self._admission = admission
        self._network = network
        self._held = True

    def release(self) -> None:
        if self._held:
            self._held = False
            self._admission.give_back(self._network)

    def __enter__(self) -> Slot:
        return self

    def __exit__(
        self, type_: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.release()


class Admission:
    """Slots in total and per address, and a token bucket per address."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._held = 0
        self._held_by: Counter[str] = Counter()
        # network -> (tokens, when they were counted); oldest first. A bucket that would be full is as good
        # as none, so the table holds only who came within the last burst / rate seconds.
        self._buckets: dict[str, tuple[float, float]] = {}

    def admit(self, host: str, now: float) -> Slot:
        """A slot for a greeting from this host. now: seconds, monotonic. Raises Busy.

        host: empty where the transport has no addresses, as on one machine; then only the total counts.
        """
        network = _network_of(host)
        if network and not self._take_token(network, now):
            rate = f"{self._limits.handshake_rate:g} a second, and a burst of {self._limits.handshake_burst}"
            raise Busy(f"more greetings from {network} than it may begin: {rate} (Limits.handshake_rate)", 1)
        limits = self._limits
        later = max(1, round(limits.syn))
        if network and self._held_by[network] >= limits.handshakes_per_address:
            most = limits.handshakes_per_address
            raise Busy(f"{most} greetings from {network} are under way (Limits.handshakes_per_address)", later)
        if self._held >= limits.handshakes:
            raise Busy(f"{self._held} greetings are under way, as many as may be (Limits.handshakes)", later)
        self._held += 1
        self._held_by[network] += 1
        return Slot(self, network)

    def give_back(self, network: str) -> None:
        self._held -= 1
        self._held_by[network] -= 1
        if not self._held_by[network]:
            del self._held_by[network]

    def _take_token(self, network: str, now: float) -> bool:
        burst, rate = self._limits.handshake_burst, self._limits.handshake_rate
        while self._buckets and now - next(iter(self._buckets.values()))[1] >= burst / rate:
            del self._buckets[next(iter(self._buckets))]
        tokens, last = self._buckets.pop(network, (float(burst), now))
        tokens = min(float(burst), tokens + (now - last) * rate)
        admitted = tokens >= 1
        self._buckets[network] = (tokens - admitted, now)
        return admitted


def _network_of(host: str) -> str:
    """Who counts as one: an IPv4 address, an IPv6 /64, or whatever else names the other end."""
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return host
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            return str(address.ipv4_mapped)
        return str(ipaddress.ip_network((address, 64), strict=False))
    return str(address)
