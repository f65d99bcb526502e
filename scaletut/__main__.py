"""`python -m scaletut`: the command, also as torchrun starts it in several processes (`torchrun -m scaletut train`)."""

import sys

from scaletut.cli import main

if __name__ == "__main__":
    sys.exit(main())
