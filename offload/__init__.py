"""Inference tasks: where and when they run."""
