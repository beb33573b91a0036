"""Puna builds an open language model on the LLaMA architecture and proves what in it is its maker's own.

Importing this package loads nothing heavy; each room is imported where it is used.
"""

__version__ = "0.1.0"
