"""Tests that need a real Kafka or a real MinIO."""
