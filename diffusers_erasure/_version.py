"""The version of this package, in one place; `CHANGELOG.md` is tied to it by a test."""

__version__ = "0.1.0.dev0"
