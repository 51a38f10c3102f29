"""A script per claim about speed: ``python -m bench.NAME [--json]``; exit code 1 for a miss."""
