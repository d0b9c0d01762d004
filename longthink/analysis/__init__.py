"""Analyses of evaluations and runs: each a small file that turns samples into numbers, tables and figures."""
