"""What unit tests share."""

from hypothesis import settings

# A first example may import PyTorch, and the machine may be busy: what hangs meets the test's own timeout.
settings.register_profile("int_ray", deadline=None)
settings.load_profile("int_ray")
