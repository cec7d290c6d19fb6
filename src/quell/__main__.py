"""`python -m quell` is `quell`."""

from quell.cli.main import main

main()
