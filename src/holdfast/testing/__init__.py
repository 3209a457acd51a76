"""Conformance suites and a fault injector, for the tests of holdfast and of what extends it."""
