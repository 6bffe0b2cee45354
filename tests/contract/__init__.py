"""One suite per interface, for the real part and for its in-memory twin alike."""
