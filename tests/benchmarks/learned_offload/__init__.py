"""A learned offloading policy, tried and left out: what it sees, how it decides, what it is rewarded for, training."""
