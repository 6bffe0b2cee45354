"""Tools for the people who run the service: `python -m supervisor <tool>`.

They look at the same Kafka and lake through the service's own adapters.  Nothing of the service
imports them.
"""
