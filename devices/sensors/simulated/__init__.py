"""Simulated sensors in procedural worlds; `world.generate` is the way in."""
