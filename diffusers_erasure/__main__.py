"""`python -m diffusers_erasure` is the `diffusers-erasure` command."""

import sys

from diffusers_erasure.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
