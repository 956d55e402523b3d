# SPDX-License-Identifier: MIT
"""What pyproject.toml cannot say: the cffi modules, and files that are not Python's."""

from glob import glob

from setuptools import setup

setup(
    cffi_modules=[
        "wgpy/dataplane/build.py:builder",
        "wgpy/dataplane/build.py:relay_builder",
    ],
    data_files=[
        ("share/man/man8", glob("man/*.8")),
        ("share/bash-completion/completions", ["completions/wgpyctl"]),
        ("share/zsh/site-functions", ["completions/_wgpyctl"]),
        ("share/fish/vendor_completions.d", ["completions/wgpyctl.fish"]),
        ("lib/systemd/system", glob("systemd/*.service")),
    ],
)
