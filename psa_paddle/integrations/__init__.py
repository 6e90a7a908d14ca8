"""Plugs for model libraries, in rooms: ``language`` and ``video``; each is imported only by who uses it.

``patches`` and ``summary`` are for both rooms; the other modules here are the published places of what stands in them.
"""

from .. import require_paddle
from ..utils.quiet import quiet_import

require_paddle("psa_paddle.integrations")
with quiet_import():
    import paddle  # noqa: F401
