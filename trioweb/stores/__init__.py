"""Stores: where history is kept."""
