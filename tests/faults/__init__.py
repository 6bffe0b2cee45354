"""Faults: what is killed, refused or doubled while the real service runs on real services."""
