"""Measures the service from outside, on a real Kafka and a real MinIO.

Nothing of the product is imported here: it is started as its operator starts it and looked at
through /proc, its metrics and the lake, so that a change inside cannot change what is measured.
"""
