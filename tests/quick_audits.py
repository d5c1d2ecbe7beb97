"""Imported first by the tests, and by the process of their commands: an audit's classifier trains for few steps.

That takes most of an audit's time, and only tests/audit/test_distribution.py tests how well it separates.
"""

from core.audit import two_sample

REAL_STEPS = two_sample.STEPS
two_sample.STEPS = 10
