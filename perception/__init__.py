"""Perception: images and clouds -> detections and depth."""
