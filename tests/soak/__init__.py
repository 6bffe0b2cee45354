"""The soak: the real service under load on a real Kafka and a real MinIO, struck for hours.

    plan       which faults strike in which period, from a seed
    strikes    how each of them is done, and healed
    run        the periods: strike, heal, wait until all is well, look
    verdict    the final judgement, the line of evidence, and what is kept when something is wrong

Not collected by pytest: `make soak HOURS=1`, or `python -m tests.soak --help`.
"""
