"""Hosts and networks made on the spot, without privilege."""
