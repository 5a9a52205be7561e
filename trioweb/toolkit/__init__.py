"""What applications are made of, on any `trio.abc.Channel` of messages: one part, one module."""
