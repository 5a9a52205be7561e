"""What applications are made of, on any `trio.abc.Channel` of messages; each part is a module."""
