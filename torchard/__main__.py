"""``python -m torchard`` is ``torchard``."""

import sys

from torchard.cli import main

if __name__ == "__main__":
    sys.exit(main())
