"""Runs a command that must not outlive whoever started it: guard.py COMMAND ARGUMENT...

Standard input is the lifeline and the control: each byte is the number of a signal for the command, answered by a line
once it is sent (SIGSTOP: once all of the command's threads stand still); its end, which comes too when the starter is
killed, ends the command. The first line on standard output is the command's process id. The command writes to the
guard's standard error. Exit status: the command's own.

A file that runs alone, in an isolated interpreter: it imports nothing of this project.
"""

import os
import signal
import subprocess
import sys
import threading

_GRACE_SECONDS = 5.0


def main() -> int:
    """Run the command to its end."""
    child = subprocess.Popen(sys.argv[1:], stdin=subprocess.DEVNULL, stdout=2, stderr=2)  # noqa: S603
    signal.signal(signal.SIGTERM, lambda *_: child.terminate())
    _answer(str(child.pid))
    threading.Thread(target=_obey, args=(child,), daemon=True).start()
    return child.wait()


def _obey(child: "subprocess.Popen[bytes]") -> None:
    while order := os.read(0, 1):
        child.send_signal(order[0])
        if order[0] == signal.SIGSTOP:
            # The kernel tells of it when the last thread stands still; until then the others may go on.
            os.waitid(os.P_PID, child.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)
        _answer("sent")
    _end(child)


def _end(child: "subprocess.Popen[bytes]") -> None:
    """End the command; one that is stopped has to be woken to hear of it."""
    child.terminate()
    child.send_signal(signal.SIGCONT)
    try:
        child.wait(_GRACE_SECONDS)
    except subprocess.TimeoutExpired:
        child.kill()


def _answer(line: str) -> None:
    try:
        os.write(1, f"{line}\n".encode())
    except OSError:  # whoever asked is gone, which the end of standard input tells as well
        return


if __name__ == "__main__":
    status = main()
    sys.exit(status if status >= 0 else 128 - status)
