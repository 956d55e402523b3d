# SPDX-License-Identifier: MIT
"""The C data plane and the one Python module that talks to it."""
