"""Examples of trioweb: one pattern a folder, each run by a test."""
