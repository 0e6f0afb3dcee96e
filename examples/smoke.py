"""Run `chat.py` as two people would, and check what each of them sees.

python examples/smoke.py          exits with 0 if both saw what they should
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

CHAT = [sys.executable, str(Path(__file__).with_name("chat.py"))]
TIME_LIMIT = 20
"""Seconds for each of the two to end."""


def start(*arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*CHAT, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, encoding="utf-8"
    )


def main() -> int:
    with start("listen") as listener:
        assert listener.stdin is not None
        assert listener.stdout is not None
        invite = listener.stdout.readline().removeprefix("* invite: ").strip()
        print(f"the listener's invite is {invite}")
        with start("dial", invite) as dialer:
            try:
                listener.stdin.write("hello from the listener\n")
                listener.stdin.close()
                dialer_saw, _ = dialer.communicate("hello from the dialer\n", timeout=TIME_LIMIT)
                listener_saw = listener.stdout.read()
                listener.wait(timeout=TIME_LIMIT)
            finally:
                dialer.kill()
                listener.kill()
    print(f"--- the dialer saw\n{dialer_saw}--- the listener saw\n{listener_saw}", end="")
    ended_well = dialer.returncode == listener.returncode == 0
    talked = "hello from the listener" in dialer_saw and "hello from the dialer" in listener_saw
    return 0 if ended_well and talked else 1


if __name__ == "__main__":
    sys.exit(main())
