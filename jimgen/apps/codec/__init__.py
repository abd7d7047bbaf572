"""Compression of pictures by a run: a container for files, and kinds of payloads in it."""
