"""Connections of other libraries as channels that the toolkit takes."""
