"""One process per topic: reads Kafka, encodes as it goes, votes, commits to its two tables."""
