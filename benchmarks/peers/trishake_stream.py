"""Trishake over one TCP stream: `initiate` and `respond`, each with a policy."""

from __future__ import annotations

import trio

from benchmarks.measure import OverTcp, arguments, main
from benchmarks.suites import SUITES, add_suite
from trishake import DialError, Identity, SecureStream, initiate, only, respond

if __name__ == "__main__":
    parser = arguments()
    add_suite(parser)
    options = parser.parse_args()
    suites = SUITES[options.suite]
    ada, bob = Identity.generate(), Identity.generate()
    ada_only = only(ada.id)

    async def dial(transport: trio.SocketStream) -> SecureStream:
        return await initiate(transport, ada, expect=bob.id, suites=suites)

    async def answer(transport: trio.SocketStream) -> SecureStream:
        return await respond(transport, bob, trust=ada_only, suites=suites)

    name = f"trishake {options.suite}"
    main(OverTcp(name, "import trishake", dial, answer, failures=(DialError, OSError)), options)
