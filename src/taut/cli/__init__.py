"""The command line: parses, calls, prints; no other logic."""

from taut.cli.app import main

__all__ = ["main"]
