"""What holds for every test of core."""

from hypothesis import HealthCheck, settings

# A machine that is busy with other things says nothing about the code.
settings.register_profile("kern", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("kern")
