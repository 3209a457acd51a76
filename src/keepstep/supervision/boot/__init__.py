"""What runs inside of a supervised Python: found as `sitecustomize` on its path. The standard library alone."""
