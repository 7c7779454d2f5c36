"""``python -m datamodules.cache``: show and clear the cache."""

import sys

from datamodules.cache.folder import main

if __name__ == "__main__":
    sys.exit(main())
