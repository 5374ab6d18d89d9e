"""What tools/benchmark.py measures, and with what: one module for each sub-benchmark."""
