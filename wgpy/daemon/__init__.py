# SPDX-License-Identifier: MIT
"""The command wgpy: one interface as a process."""
