"""`python -m wgpy` is `wgpy`."""

import sys

from wgpy.cli import main

sys.exit(main())
