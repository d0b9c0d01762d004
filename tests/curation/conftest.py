"""The scripted endpoint, for every test of a curation."""

from asking import endpoint

__all__ = ["endpoint"]
