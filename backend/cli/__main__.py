"""`python -m backend.cli` is `labelclimb`, also where its command is not on the PATH."""

from backend.cli.app import main

main()
