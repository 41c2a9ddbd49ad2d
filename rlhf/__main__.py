"""`python -m rlhf` is the `rlhf` command, where the script is not on the PATH."""

from rlhf.cli import main

main()
