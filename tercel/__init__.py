"""Tercel: an edge perception suite for robots and drones."""

__version__ = "0.1.0"
