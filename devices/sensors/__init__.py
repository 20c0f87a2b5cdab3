"""Sensors: cameras, recorded and simulated."""
