"""The command line: `trishake COMMAND`.

What each command takes is in _arguments.py, which also names the function that does it. Every command ends with an
exit code that says what came of it: see `ExitCode` in _outcomes.py.
"""

from __future__ import annotations

import logging
import sys
from functools import partial
from importlib import import_module
from typing import cast

from ._arguments import Command, parse_arguments
from ._output import LogToStderr, Output, run_command, show_what_cannot_be_encoded


def main() -> None:
    """Parse the arguments, run the command, and exit with its code."""
    show_what_cannot_be_encoded()
    arguments = parse_arguments()
    logging.getLogger("trishake").addHandler(LogToStderr())
    output = Output(as_json=arguments.json)
    module, name = arguments.run
    command = cast("Command", getattr(import_module(module, __name__), name))
    sys.exit(run_command(partial(command, arguments, output), output))
