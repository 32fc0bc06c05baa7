"""The version of this library, said once: in the metadata of the installed package."""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("pullback")
except PackageNotFoundError:  # run from a checkout that is not installed
    __version__ = "0+unknown"
