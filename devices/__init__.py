"""Boards, sensors and deployment: what Tercel runs on and what it sees through."""
