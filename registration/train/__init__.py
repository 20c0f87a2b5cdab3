"""Training of the descriptor for distant pairs (extra `train`). Nothing at run time imports this package."""
