"""One script per claim about speed: ``python -m bench.NAME [--json]``; exit code 1 when one fails."""
