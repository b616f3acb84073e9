"""`python -m barreleye` is `barreleye`."""

from barreleye.cli import main

main()
