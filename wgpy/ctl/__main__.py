# SPDX-License-Identifier: MIT
"""`python -m wgpy.ctl` is `wgpyctl`."""

import os
import sys

from wgpy.linux.streams import open_standard_streams

try:
    open_standard_streams()  # before a library keeps a descriptor
except OSError as error:
    sys.exit(f"wgpyctl: cannot open {os.devnull}: {error.strerror}")

from wgpy.ctl.cli import main

sys.exit(main())
