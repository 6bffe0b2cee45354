"""A shop that makes events: the embedded demo of the service.

It brings its own Kafka (librdkafka's mock cluster), feeds it, runs the service on it as a
separate process and shows what lands. It talks to the service only the way an operator can:
environment variables, signals, the health page and the tables.
"""
