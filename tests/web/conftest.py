"""The demo model behind a page, loaded once."""

import pytest
from shared_web import LOOKING, TOKENS

from psa_paddle.integrations.language.inference import QwenVLInference
from psa_paddle.web.limits import Limits
from psa_paddle.web.site import Reporter, Site
from psa_paddle.web.uploads import Uploads


@pytest.fixture(scope="package")
def demo():
    """(model, reporter)."""
    reporter = Reporter(lambda *_: None)
    return QwenVLInference("demo", dtype="float32", progress=reporter), reporter


@pytest.fixture
def make_site(demo):
    """Makes sites around the demo model; other keywords are limits."""
    sites, folders = [], []

    def make(given=None, default="balanced", max_tokens=TOKENS, **limits):
        model, reporter = demo
        folders.append(Uploads())
        sites.append(Site(model, reporter, folders[-1], LOOKING, given, default, max_tokens, Limits(**limits)))
        return sites[-1]

    yield make
    for made in (*sites, *folders):
        made.close()
