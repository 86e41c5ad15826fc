"""Run the command line as `python -m loragen`."""

from loragen.cli import main

main()
