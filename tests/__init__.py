"""The tests of the project, and the real services that they run against."""
