"""Functions of transformers without an underscore before them, but of nobody's promise, that a conversion needs."""

from __future__ import annotations

import inspect
from importlib import import_module
from importlib.util import find_spec

import pytest

if find_spec("transformers") is None or find_spec("transformers.core_model_loading") is None:
    pytest.skip("needs transformers 5", allow_module_level=True)

PARAMETERS = {
    "core_model_loading.revert_weight_conversion": ["model", "state_dict"],
    "core_model_loading.convert_and_load_state_dict_in_model": [
        "model", "state_dict", "load_config", "disk_offload_index",
    ],
    "core_model_loading.set_param_for_module": [
        "model", "target_name", "param_value", "loading_info", "hf_quantizer",
    ],
    "conversion_mapping.get_model_conversion_mapping": ["model", "key_mapping", "hf_quantizer", "add_legacy"],
}  # fmt: skip
FIELDS = {"device_map", "dtype", "dtype_plan", "hf_quantizer", "weight_mapping", "weights_only", "device_mesh"}


@pytest.mark.parametrize("name", PARAMETERS)
def test_it_takes_what_it_took(name: str) -> None:
    module, _, function = name.rpartition(".")
    found = inspect.signature(getattr(import_module(f"transformers.{module}"), function))
    assert list(found.parameters) == PARAMETERS[name]


def test_the_settings_of_a_load_have_their_fields() -> None:
    settings = import_module("transformers.modeling_utils").LoadStateDictConfig
    assert set(inspect.signature(settings).parameters) >= FIELDS
    assert settings(weight_mapping=[]).weight_mapping == []


def test_another_setter_can_stand_in() -> None:
    """The converter looks its setter up by name, among what its own module has."""
    core = import_module("transformers.core_model_loading")
    converter = core.convert_and_load_state_dict_in_model
    assert converter.__globals__ is vars(core)
    assert "set_param_for_module(" in inspect.getsource(converter)
