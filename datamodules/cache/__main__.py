"""``python -m datamodules.cache``: what is kept between runs."""

import sys

from datamodules.cache.folder import main

if __name__ == "__main__":
    sys.exit(main())
