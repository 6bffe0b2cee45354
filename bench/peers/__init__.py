"""Sets the service beside other ways to do the same: a plain loop, and Spark.

One run, one Kafka, one MinIO, the same topics; one system after the other. As in the rest of
`bench`, nothing of the product is imported.
"""
