"""`python -m wgpy` is `wgpy`."""

import sys

from wgpy.daemon.cli import main

sys.exit(main())
