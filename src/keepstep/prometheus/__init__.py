"""The vitals of runs for Prometheus (extra `metrics`)."""

from keepstep.prometheus.exporter import Exporter
from keepstep.prometheus.exposition import Address, parse_target, registry, serve, text_of, write_file

__all__ = ["Address", "Exporter", "parse_target", "registry", "serve", "text_of", "write_file"]
