from __future__ import annotations

from hypothesis import settings

# No timed assertions: a busy machine is not a failure.
settings.register_profile("unit", deadline=None)
settings.load_profile("unit")
