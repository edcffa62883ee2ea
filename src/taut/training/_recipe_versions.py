"""Recipes as earlier versions wrote them, in today's form."""

from typing import Any

_ALWAYS_WRITTEN = {"parametrization", "retract_every", "augment", "seed"}


def current_form(values: dict[str, Any]) -> dict[str, Any]:
    """A recipe in JSON as it is written today; one in today's form stays as it is.

    Version 0.1 had `dataset` at the top and all about the net in `model`. Later versions listed
    every setting; where `validation` is missing among them, training used all images.

    Example:
        >>> current_form({"name": "a", "dataset": "mnist"})["data"]
        {'kind': 'mnist'}
    """
    values = _from_version_0_1(values) if "dataset" in values else values
    data = values.get("data")
    if values.keys() >= _ALWAYS_WRITTEN and isinstance(data, dict):
        return values | {"data": {"validation": 0.0} | data}
    return values


def _from_version_0_1(values: dict[str, Any]) -> dict[str, Any]:
    values = dict(values)
    data = {"kind": values.pop("dataset")}
    model = dict(json_object("model", values.pop("model", {})))
    data |= {name: model.pop(name) for name in ("input_shape", "classes") if name in model}
    data |= {name: values.pop(name) for name in ("holdout", "resize") if name in values}
    if "parametrization" in model:
        values["parametrization"] = model.pop("parametrization")
    kind = model.pop("architecture", "small")
    return values | {"data": data, "model": {"kind": kind, **model}}


def json_object(name: str, value: Any) -> dict[str, Any]:
    """A part of a recipe that must be a JSON object.

    Raises:
        ValueError: if it is none.

    Example:
        >>> json_object("model", {})
        {}
    """
    if not isinstance(value, dict):
        raise ValueError(f"`{name}` must be a JSON object; got {value!r}.")
    return value
