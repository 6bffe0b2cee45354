"""The real core in one thread: coordinator, decider, respawn policy and workers on twins.

A `World` plays what lies between them (processes, systemd, Kafka's group) and steps everything in
an order that a seed decides.  Every request that leaves a process is numbered, and a schedule says
at which numbers what goes wrong.  A `Judge` looks at every commit, record and offset as it happens.

    python -m tests.simulation --seed 17          replay a random schedule, step by step
    python -m tests.simulation --fault 40:crash_after --fault 55:error_before
    python -m tests.simulation --pairs            every pair of faults of the small script
"""
