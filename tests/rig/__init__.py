"""The test rig: what puts messages in, runs the service, breaks its surroundings, and judges.

    ledger, messages, producer   what was written to Kafka, offset by offset
    service                      the product as a process tree under test
    s3_proxy, tcp_proxy          faults on the wire, at named moments
    checker                      the verdict, from the tables, the records and the group

Nothing in here imports the product: a mistake in its code cannot hide itself from its judge.
"""
