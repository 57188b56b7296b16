"""Judging a model by the tests it writes: suites, metrics, the comparison before and after."""
