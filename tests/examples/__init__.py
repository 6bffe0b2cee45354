"""The worked examples, run on lakes that the product made."""
