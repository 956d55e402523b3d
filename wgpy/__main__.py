# SPDX-License-Identifier: MIT
"""`python -m wgpy` is `wgpy`."""

import os
import sys
from typing import Any

from wgpy.linux.streams import open_standard_streams

try:
    open_standard_streams()
except OSError as error:
    sys.exit(f"wgpy: cannot open {os.devnull}: {error.strerror}")
else:
    # asyncio goes without TLS where Python has none, and no daemon speaks it: a tenth of a start.
    modules: dict[str, Any] = sys.modules
    modules["ssl"] = None

from wgpy.daemon.cli import main  # it loads libffi, which keeps a descriptor

sys.exit(main())
