"""The two things that pyproject.toml cannot say: the cffi module and the manual pages."""

from glob import glob

from setuptools import setup

setup(
    cffi_modules=["wgpy/dataplane/build.py:ffibuilder"],
    data_files=[("share/man/man8", glob("man/*.8"))],
)
