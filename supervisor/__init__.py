"""The supervisor: owns the cycle, the decision, the workers' lives and the exit code.

Imports `workers` and `shared`; nothing imports it.
"""
