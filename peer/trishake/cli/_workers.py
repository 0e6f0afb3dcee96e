"""Several processes that listen at one port, each with its own event loop (`trishake listen --workers`)."""

from __future__ import annotations

import argparse
import os
import signal
import socket as stdlib_socket
import sys
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Never

import trio

from .._addresses import Address
from .._errors import InvalidAddress
from .._listener import cannot_listen
from ._identities import load_identity
from ._outcomes import ExitCode, UsageError
from ._output import Output, run_command

Listen = Callable[..., Awaitable[None]]

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


def run_workers(arguments: argparse.Namespace, output: Output, listen: Listen) -> ExitCode:
    """Fork them, and wait until all have ended: when we are told to, or when one of them has ended."""
    if not hasattr(os, "fork"):
        raise UsageError("--workers needs a system that can fork")
    address = Address.parse(arguments.address)
    if address.scheme != "tcp":
        raise InvalidAddress(f"'{address}': only tcp:// can be shared by several processes")
    if not arguments.agent and arguments.signer is None:
        load_identity(arguments, output)  # made once, and its passphrase asked for once, before there are several
    ends, lifeline = os.pipe()
    with _reserve(address) as reserved:
        arguments.address = str(Address(address.host, reserved.getsockname()[1]))
        cut = _cut_when_told(lifeline)
        workers: set[int] = set()
        for number in range(arguments.workers):
            worker = os.fork()
            if worker == 0:
                _work(partial(listen, arguments, output, ends=ends, quiet=number > 0), output, cut)
            workers.add(worker)
        return _wait_for(workers, cut)


def _reserve(address: Address) -> stdlib_socket.socket:
    """A socket that holds the port for all of them, and does not listen itself."""
    try:
        found = stdlib_socket.getaddrinfo(address.host, address.port, type=stdlib_socket.SOCK_STREAM)
    except OSError as error:
        raise cannot_listen(error, address) from None
    family, kind, protocol, _, where = found[0]
    reserved = stdlib_socket.socket(family, kind, protocol)
    reserved.setsockopt(stdlib_socket.SOL_SOCKET, stdlib_socket.SO_REUSEPORT, 1)
    try:
        reserved.bind(where)
    except OSError as error:
        reserved.close()
        raise cannot_listen(error, address) from None
    return reserved


def _cut_when_told(lifeline: int) -> Callable[..., None]:
    """What cuts the lifeline; so does a signal."""
    held = [lifeline]

    def cut(*_: object) -> None:
        while held:
            os.close(held.pop())

    for told in _SIGNALS:
        signal.signal(told, cut)
    return cut


def _work(listen: Callable[[], Awaitable[None]], output: Output, cut: Callable[[], None]) -> Never:
    """The life of a worker; it never returns into the code of the one it was forked from."""
    code = ExitCode.FAILED
    try:
        # It stays the handler of signals too, and does nothing more: Ctrl-C comes to all, and who leaves already
        # because the parent has cut the lifeline shall not fail of it.
        cut()
        code = run_command(partial(trio.run, listen), output)
    except BaseException as bug:  # noqa: BLE001
        sys.excepthook(type(bug), bug, bug.__traceback__)  # nobody else will show it
    finally:
        os._exit(code)


def _wait_for(workers: set[int], cut: Callable[[], None]) -> ExitCode:
    """They leave when the lifeline is cut: by us, or because we are no more."""
    code = ExitCode.OK
    while workers:
        worker, status = os.wait()
        workers.discard(worker)
        if os.waitstatus_to_exitcode(status) and not code:
            code = ExitCode.FAILED
        cut()
    return code
