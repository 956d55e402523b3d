"""`python -m wgpy.ctl` is `wgpyctl`."""

import sys

from wgpy.ctl.cli import main

sys.exit(main())
