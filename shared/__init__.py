"""What every process of the service needs and none owns: configuration, protocol, errors, clocks.

Nothing in this package imports `supervisor`, `workers` or `healthcheck`.
"""
