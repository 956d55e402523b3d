# SPDX-License-Identifier: MIT
"""`wgpyctl proxy`: others' connections into a tunnel of its own."""

import os
from functools import partial
from typing import Any

from wgpy.ctl.outcome import EXIT_HEALTHY, CallError
from wgpy.errors import ConfigError
from wgpy.log import level
from wgpy.proxy.options import parse_options
from wgpy.settings import Config
from wgpy.text import printable


def proxy(*, conf: str, L: list[str], R: list[str], **said: Any) -> int:  # noqa: N803
    """Run it, as the command line says, until a signal.  Raises CallError, StartError."""
    given = {name: value for name, value in said.items() if value is not None}
    try:
        options = parse_options(Config.from_file(conf), local=L, remote=R, **given)
    except (ConfigError, ValueError) as error:
        raise CallError(printable(str(error))) from None
    except OSError as error:
        raise CallError(printable(f"{conf}: {error.strerror}")) from None
    from wgpy.proxy.run import run  # which takes longer to import than all that may be wrong

    run(options, level(os.environ.get("LOG_LEVEL", "")), partial(print, flush=True))
    return EXIT_HEALTHY
