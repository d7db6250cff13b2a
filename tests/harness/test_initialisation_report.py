"""What a layer says about its start gets into the run's record."""

from functools import partial

import pytest
from made_records import record

from eigenzoo.errors import EigenzooError
from eigenzoo.harness import store
from eigenzoo.harness.training import _initialisation
from eigenzoo.models.ssm import S4D, S5, PTDInit, S5PTDInit, SequenceModel


@pytest.mark.parametrize("layer, init", [(S4D, PTDInit()), (S5, S5PTDInit())])
def test_counts_of_every_layer_are_recorded(tmp_path, layer, init):
    model = SequenceModel(1, 2, dim=2, depth=2, layer=partial(layer, state_dim=8), init=init)
    found = _initialisation(model)
    assert list(found["initialisation"]) == ["blocks.0.layer", "blocks.1.layer"]
    assert found["initialisation"]["blocks.1.layer"]["ptd_clipped"] == 0.0
    store.append(record(**found), tmp_path)
    assert store.read([tmp_path])[0]["initialisation"] == found["initialisation"]


def test_models_with_nothing_to_say_add_nothing():
    assert _initialisation(SequenceModel(1, 2, dim=2, depth=1, layer=partial(S4D, state_dim=8))) == {}


def test_a_record_with_another_kind_of_value_is_refused(tmp_path):
    with pytest.raises((EigenzooError, ValueError), match="initialisation"):
        store.append(record(initialisation=3), tmp_path)
