"""The health page: a process of its own that reads the shared block and answers over HTTP.

It promises to change nothing: it writes no word of the block and talks to neither Kafka nor the
lake, so it may die, hang or be flooded with requests without the ingestion noticing.
"""
