"""Passes on what a process that shares its run with others writes to its standard error.

When another process of the run has gone, JAX's coordination service says so in many lines and aborts the process from
C++, where no handler of ours runs. Here those lines become one. Standard library only, and none of this package: it
starts within milliseconds.
"""

import re
import signal
import sys

NOISE = re.compile(rb"\[Gloo\] |[IWEF]\d{4} .*(coordination_service|preemption_sync_manager|add_port|client\.h:)")
MORE = re.compile(rb"RPC: /xla|Additional GRPC|:UNKNOWN:|The tasks have crashed|\*\*\* Check failure| +@ +0x|\d*$")
FATAL = b"Terminating process because the JAX distributed service"
OURS = b"polystep-rl: error: "


def main() -> None:
    """Until the process has ended."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the process has its last words
    out, noisy, ended, said = sys.stdout.buffer, False, False, False
    for line in sys.stdin.buffer:
        ended |= FATAL in line
        noisy = bool(NOISE.match(line) or (noisy and MORE.match(line)))
        if not noisy:
            said |= line.startswith(OURS)
            out.write(line)
            out.flush()
    if ended and not said:
        out.write(OURS + b"another process of this run has gone: it was killed, or its machine or the network failed\n")
        out.flush()


if __name__ == "__main__":
    main()
