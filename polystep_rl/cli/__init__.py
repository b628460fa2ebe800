"""The command line: ``polystep-rl COMMAND``, of which `COMMANDS` are the names.

Exit codes: 0 done, 1 failed, 2 bad usage, 130 interrupted. With ``--json`` the last line of standard output is one JSON
object, and nothing else goes there.
"""

from __future__ import annotations

import importlib
import os
import signal
import sys

from polystep_rl.errors import did_you_mean
from polystep_rl.runs.failures import USAGE, failure

COMMANDS = {
    "train": "train a policy",
    "compare": "train a grid of algorithms, environments, precisions and seeds at equal budgets; tables and figures",
    "report": "one self-contained HTML page from any runs or comparisons",
    "eval": "evaluate a trained policy on fresh episodes",
    "play": "roll a trained policy in the Gymnasium environment of its id and write a GIF or MP4",
    "export": "write a trained policy as C, ONNX, a web page, or a bundle of them with tests and a report",
    "verify": "show that all that a bundle holds acts exactly like the trained policy",
    "envs": "list environments, or check one of your own",
    "doctor": "show versions and devices, and run a self-test of a few seconds",
}


def usage() -> str:
    """The overview that ``polystep-rl --help`` prints."""
    lines = [f"  {name:<8} {text}" for name, text in COMMANDS.items()]
    return "\n".join(
        [
            "usage: polystep-rl COMMAND [OPTIONS]",
            "",
            "Policy search with forward passes only: float32, int8 and binary controllers.",
            "",
            *lines,
            "",
            "polystep-rl COMMAND --help shows the options of a command, polystep-rl --version the version.",
        ]
    )


def main(argv: list[str] | None = None) -> int:
    """Run one command and return its exit code."""
    if argv is None:  # a process of our own
        _exit_on_interrupt()
    args = list(sys.argv[1:] if argv is None else argv)
    if not args or args[0] in ("-h", "--help", "help"):
        print(usage(), file=sys.stdout if args else sys.stderr)
        return 0 if args else USAGE
    if args[0] in ("-V", "--version"):
        from polystep_rl import __version__

        print(__version__)
        return 0
    if args[0] not in COMMANDS:
        hint = did_you_mean(args[0], COMMANDS, f"expected one of {', '.join(COMMANDS)}")
        return _fail(f"unknown command {args[0]!r}: {hint}", USAGE)
    return _run(args[0], args[1:])


def _exit_on_interrupt() -> None:
    """Ctrl-C ends the process at once, but where `train` handles it.

    A KeyboardInterrupt would be lost if it came up inside one of JAX's callbacks, and imports break halfway. Files are
    written atomically, so nothing is left to clean up.
    """

    def stop(signum: int, frame: object) -> None:
        os.write(2, b"polystep-rl: error: interrupted\n")
        os._exit(130)

    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # not ignored, as in a shell's background
        signal.signal(signal.SIGINT, stop)


def _run(name: str, args: list[str]) -> int:
    try:
        command = importlib.import_module(f"polystep_rl.cli.{name}")
        return command.run(args)
    except BrokenPipeError:
        # Whoever read the output has gone; what is left in the buffer must not be written when Python ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except SystemExit as stop:  # the help was printed
        return stop.code if isinstance(stop.code, int) else USAGE
    except BaseException as error:
        said, code = failure(error)
        if said is None:
            raise
        return _fail(said, code)


def _fail(text: str, code: int) -> int:
    print(f"polystep-rl: error: {' '.join(text.split())}", file=sys.stderr)
    return code
