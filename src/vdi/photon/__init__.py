"""What a desktop's stream is like for the person in front of it: a client that sees pixels, and its figures."""
