"""Run the command line: `python -m loragen`."""

from loragen.cli.app import main

main()
