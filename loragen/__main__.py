"""Run the command line as `python -m loragen`."""

from loragen.cli.app import main

main()
