"""What applications are made of, on any `trio.abc.Channel` of messages.

Each part is a module of its own.
"""
