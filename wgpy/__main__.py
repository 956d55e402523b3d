"""`python -m wgpy` is `wgpy`."""

import os
import sys

from wgpy.linux.streams import open_standard_streams

try:
    open_standard_streams()
except OSError as error:
    sys.exit(f"wgpy: cannot open {os.devnull}: {error.strerror}")

from wgpy.daemon.cli import main  # it loads libffi, which keeps a descriptor

sys.exit(main())
