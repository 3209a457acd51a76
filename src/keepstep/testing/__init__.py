"""Conformance suites and a fault injector, for the tests of keepstep and of what extends it."""
