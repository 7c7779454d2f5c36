"""``python -m datamodules.demo``: the embedded corpus."""

import sys

from datamodules.demo.corpus import main

if __name__ == "__main__":
    sys.exit(main())
