"""In-memory twins of what the service works with: store, tables, Kafka, clock.

Each twin keeps the promises of the interface it stands for; tests/contract holds it and the real
part to the same suite.  Faults are ordered by tests, never drawn.
"""
