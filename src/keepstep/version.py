"""The version of keepstep."""

__version__ = "0.1.0"
