"""Detections over time in, tracks out: objects with an identity, a velocity and an age."""
