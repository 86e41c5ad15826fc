"""Run the command line: `loragen`, or `python -m loragen`."""

import signal

from loragen.cli.interrupts import one_line_at_ctrl_c


def main() -> None:
    """Run the command line in a process of its own."""
    try:
        with one_line_at_ctrl_c():
            from loragen.cli.app import main as run  # takes a moment, in which Ctrl-C may come

            run()
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # there is nothing left to interrupt


if __name__ == "__main__":
    main()
