"""Plugs for model libraries; each is imported only by who uses it."""

from .. import require_paddle

require_paddle("psa_paddle.integrations")
