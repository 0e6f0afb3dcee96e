"""Trishake over one TCP stream: `initiate` and `respond`, each with a policy."""

from __future__ import annotations

import trio

from benchmarks.measure import OverTcp, arguments, main
from benchmarks.suites import SUITES, add_suite
from trishake import DialError, Identity, SecureStream, initiate, only, respond

if __name__ == "__main__":
    parser = arguments()
    add_suite(parser)
    parser.add_argument("--optimistic", action="store_true", help="latency: ask along with the last message")
    options = parser.parse_args()
    suites = SUITES[options.suite]
    ada, bob = Identity.generate(), Identity.generate()
    ada_only = only(ada.id)

    async def dial(transport: trio.SocketStream) -> SecureStream:
        return await initiate(transport, ada, expect=bob.id, suites=suites)

    async def answer(transport: trio.SocketStream) -> SecureStream:
        return await respond(transport, bob, trust=ada_only, suites=suites)

    async def ask(transport: trio.SocketStream, question: bytes) -> SecureStream:
        return await initiate(transport, ada, expect=bob.id, suites=suites, optimistic=question)

    main(
        OverTcp(
            f"trishake {options.suite}",
            "import trishake",
            dial,
            answer,
            failures=(DialError, OSError),
            initiate_asking=ask if options.optimistic else None,
        ),
        options,
    )
