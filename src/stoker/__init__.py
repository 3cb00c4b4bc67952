"""Stoker: a self-hosted server for Modal apps."""

from importlib.metadata import version

__version__ = version("stoker")
