"""Codecs: values to messages and back."""
