"""The adapter_config.json files of mode peft, and which of their fields may reach PEFT.

PEFT reads some fields as names of modules to import, of files, or as regular expressions. So a
file is checked before PEFT sees it, by a list of the methods, their fields and types of values.
"""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from bench.common.errors import InputError
from bench.common.files import read_tables
from bench.plan.cell import digest
from minbert.files import read_json

if TYPE_CHECKING:
    from bench.plan.gridfile import Grid

FILE: Final = "adapter_config.json"
_TYPE: Final = "peft_type"
_MODEL: Final = "auto_mapping"
"""The base's class, which PEFT writes and imports only in AutoPeftModel, which isn't used."""
_KNOWN: Final = read_tables(__file__, "adapter_methods.toml")
_FIELDS: Final[Mapping[str, Sequence[str]]] = _KNOWN["fields"]
_METHODS: Final[Mapping[str, Sequence[str]]] = _KNOWN["methods"]
_UNSUITED, UNSUITED_INITIALISATIONS = (
    {name: why for why, names in _KNOWN[kind].items() for name in names}
    for kind in ("unsuited", "unsuited_initialisations")
)
"""Methods and initialisations that a configuration does not suffice for, and why."""
_DEFAULTS: Final = {"megatron_core": "megatron.core"}
"""Values that PEFT writes into each file, of fields that are not used."""
_WORD: Final = re.compile(r"[A-Za-z0-9_]{1,40}")
_MOST: Final = 4
_LONGEST: Final = 200


def read_adapter_configs(grid: "Grid") -> tuple[dict[str, str], dict[str, str]]:
    """The configurations that a grid names: their names in cells by path, and their JSON by that
    name. InputError for a file that can't be read or holds none."""
    names, texts = {}, {}
    for path in {path: None for axes in grid.cells for path in axes.adapter_config}:
        values = read_json(Path(path))
        known = {key: v for key, v in values.items() if key not in _FIELDS["ignored"]}
        check_adapter_config(known, f"adapter_config {path}")
        names[path] = f"{values[_TYPE].lower()} {digest(known, 8)}"
        texts[names[path]] = json.dumps(known, sort_keys=True)
    return names, texts


def check_adapter_config(values: Mapping[str, Any], where: str) -> None:
    """Refuse a configuration that PEFT must not see, by an InputError that names the field and
    where the configuration is."""
    method = values.get(_TYPE)
    if not isinstance(method, str):
        raise InputError(f'{where}: lacks {_TYPE}, such as "LOHA", so it is no {FILE} of PEFT')
    if method in _UNSUITED:
        raise InputError(f"{where}: {method} {_UNSUITED[method]}; take another method")
    if method not in _METHODS:
        raise InputError(
            f"{where}: {_TYPE} {method[:60]!r} is none of those that can be used: "
            f"{', '.join(_METHODS)}"
        )
    fields = {*_FIELDS["common"], *_FIELDS["modules"], *_METHODS[method]}
    for key, value in values.items():
        is_label = key in _FIELDS["labels"] and isinstance(value, bool | str)
        if value is None or key == _MODEL or _DEFAULTS.get(key) == value or is_label:
            continue
        if key not in fields:
            raise InputError(
                f"{where}: field {key[:60]!r} can't be used with {method}; leave it out"
            )
        names = key in _FIELDS["modules"]
        if not _is_plain(value, names=names):
            what = (
                f"names of modules, or a regular expression of at most {_LONGEST} characters with "
                f"at most {_MOST} groups and repetitions, and no repetition of a group"
                if names
                else "numbers and single words"
            )
            raise InputError(f"{where}: field {key!r} has a value that can't be used; give {what}")


def _is_plain(value: object, *, names: bool, depth: int = 2) -> bool:
    """Whether a value has numbers and single words alone, or names of modules."""
    if isinstance(value, str):
        return _is_bounded(value) if names else _WORD.fullmatch(value) is not None
    if depth and isinstance(value, list):
        return all(_is_plain(each, names=names, depth=depth - 1) for each in value)
    if depth and isinstance(value, dict) and not names:
        own = all(_is_plain(each, names=False, depth=depth - 1) for each in value.values())
        return own and all(map(_is_bounded, value))
    return value is None or (not names and isinstance(value, bool | int | float))


def _is_bounded(pattern: str) -> bool:
    """Whether a regular expression takes a short time on the name of any module. Each repetition
    and each group of alternatives multiplies the ways to match a name."""
    bare = re.sub(r"\\.|\(\?:", lambda match: "(" if match[0] == "(?:" else "", pattern)
    ways = sum(map(bare.count, "*+?{("))
    is_nested = re.search(r"\)[*+?{]", bare) is not None
    return len(pattern) <= _LONGEST and pattern.isprintable() and ways <= _MOST and not is_nested


def check_adapters(folder: Path, *, adapts: bool) -> None:
    """Check the folder of a model before a library loads it, which would load adapters unasked; the
    configuration of a model that is an adapter is in the folder itself. InputError for an adapter
    in another place, or as `check_adapter_config`."""
    for path in sorted(folder.rglob(FILE)):
        if not adapts or path.parent != folder:
            raise InputError(
                f"{path}: an adapter besides the model; remove it, or use {path.parent}"
            )
        check_adapter_config(read_json(path), str(path))
