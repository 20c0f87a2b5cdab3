"""Registration of two scans taken 10 to 50 m apart, whose overlap is small and whose densities differ."""
