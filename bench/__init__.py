# SPDX-License-Identifier: MIT
"""How fast wgpy is: `scripts/bench` runs this package; it is no part of what gets installed."""
