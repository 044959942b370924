"""A person in front of it: director, desk, study, command line."""
