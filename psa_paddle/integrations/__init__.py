"""Plugs for model libraries; each is imported only by who uses it."""

from .. import require_paddle
from ..utils.quiet import quiet_import

require_paddle("psa_paddle.integrations")
with quiet_import():
    import paddle  # noqa: F401
