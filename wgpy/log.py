"""The level of the log that Python lacks."""

import logging
from typing import Final

NOTICE: Final = 25  # what an operator needs to know although nothing is wrong

logging.addLevelName(NOTICE, "NOTICE")
