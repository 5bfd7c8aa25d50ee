"""What tools/benchmark.py measures: networks beside each other, in time and in memory."""
