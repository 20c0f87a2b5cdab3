"""Policies: which task runs where and when. One short file each; `policy.py` says what a policy is."""
