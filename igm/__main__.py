"""``python -m igm ...`` is the command ``igm ...``, see ``igm.cli``."""

import sys

from igm.cli import main

if __name__ == "__main__":
    sys.exit(main())
