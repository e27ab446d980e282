"""The benchmarks: what a checked call costs, beside what the same machine does without us. Not part of the wheel."""
