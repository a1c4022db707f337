"""docs/conf.py: a broken link, or a load from another host, fails the site and is named."""

import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.components import COMPONENTS, need

CONF = Path(__file__).parents[1] / "docs" / "conf.py"


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("[a](#a-page) [b](b.md#b) [c](../README.md)", None),
        ("[a](#no-heading)", "index.md:3: WARNING"),
        ("[b](b.md#no-heading)", "index.md:3: WARNING"),
        ("[b](no-page.md)", "index.md:3: WARNING"),
        ("[c](../no-page.md)", "index.md:3: WARNING"),
        ("![a picture](https://example.org/a.png)", "index.html loads from another host"),
    ],
)
def test_a_link_that_leads_nowhere_and_a_load_from_elsewhere_fail_the_site(
    tmp_path, line, complaint
):
    need(find_spec("furo") is not None, COMPONENTS["docs"], component="docs")
    source = tmp_path / "docs"
    source.mkdir()
    shutil.copy(CONF, source)
    (tmp_path / "README.md").write_text("# Read me\n")
    (source / "index.md").write_text(f"# A page\n\n{line}\n\n```{{toctree}}\nb\n```\n")
    (source / "b.md").write_text("# B\n")
    flags = ["-q", "-W", "--keep-going", "-n", str(source), str(tmp_path / "site")]
    done = subprocess.run(
        [sys.executable, "-m", "sphinx", *flags], capture_output=True, text=True, check=False
    )
    assert (done.returncode != 0) == (complaint is not None), done.stderr
    assert (complaint or "") in done.stderr
