"""The protocol without I/O: bytes in, events out; events in, bytes out.

The only package of trioweb that imports wsproto and h11, and it never imports trio.
"""
