"""The keeper: looks after the lake beside the workers, one short-lived process at a time."""
