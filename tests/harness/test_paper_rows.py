"""Every row of every shipped paper: its experiment composes with the row's words, passes the check and builds."""

import pytest

from eigenzoo.harness import paper as papers
from eigenzoo.harness.check import check
from eigenzoo.harness.compose import compose
from eigenzoo.harness.preflight import build_on_meta


@pytest.mark.parametrize("name", papers.names())
def test_rows_build_at_their_largest_scale(name):
    for row in papers.load(name).rows:
        label = row.name.replace("'", "\\'")
        words = [f"experiment={row.experiment}", f"paper={name}", f"row='{label}'", *row.overrides]
        config = compose([*words, f"scale={row.scales[-1]}"]).config
        assert (config["paper"], config["row"]) == (name, row.name)
        check(config)
        build_on_meta(config)
