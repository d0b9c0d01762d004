"""Evaluation: benchmarks and protocols as data files, every sample kept, verdicts in place of bare scores."""
