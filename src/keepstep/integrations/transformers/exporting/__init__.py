"""Exports: weights read, cast, merged, averaged, written, and compared with their source."""
