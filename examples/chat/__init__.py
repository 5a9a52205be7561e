"""The chat: rooms and private messages of which nobody misses any, and a page to write them."""
