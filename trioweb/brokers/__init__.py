"""Brokers: what carries publications from node to node."""
