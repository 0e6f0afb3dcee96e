"""Bare TCP on Trio: no identity, no encryption. What the transport alone costs."""

from __future__ import annotations

import trio

from benchmarks.measure import OverTcp, arguments, main


async def take(transport: trio.SocketStream) -> trio.SocketStream:
    return transport


if __name__ == "__main__":
    main(OverTcp("tcp", "import trio", take, take), arguments().parse_args())
