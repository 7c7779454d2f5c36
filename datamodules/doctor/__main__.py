"""``python -m datamodules.doctor``: checks of a data set."""

import sys

from datamodules.doctor.report import main

if __name__ == "__main__":
    sys.exit(main())
