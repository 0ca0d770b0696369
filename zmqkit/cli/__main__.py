"""`python -m zmqkit.cli`: the same as the `zmqkit` command, for processes that know only their interpreter."""

from zmqkit.cli.main import main

main()
