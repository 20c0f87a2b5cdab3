"""Training of our own detector, with torch (extra `train`). Nothing at run time imports this package."""
