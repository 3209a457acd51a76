"""Trainings of ours as ckpt-chaos kills them, a crash tester that others wrote: https://pypi.org/project/ckpt-chaos/."""
