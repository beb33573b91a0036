"""`python -m puna`: the same as the command `puna`."""

from puna.cli.app import main

main()
