"""Quantization of detectors' networks: calibration, number formats, QDQ files, and the check that it was worth it."""
