"""Registries of declarations: this project's own, many of them in TOML files, and those of plugins.

A plugin is an installed distribution with entry points in one of the groups that a registry reads.
Its names come from its metadata; a declaration is imported when something asks for it, and what
the declaration names as `module:function` when that is used. Free of torch.
"""

import re
import sys
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any, Final, TypeVar

from minbert.errors import InputError

NAME: Final = re.compile(r"[a-z][a-z0-9_-]{0,39}")
"""A name that a plugin can declare."""
PLUGIN: Final = re.compile(r"[A-Za-z0-9][\w.-]{0,79} [\w.+!-]{1,40}", re.ASCII)
"""A distribution and its version."""
_LONGEST: Final = 200


class _UnusableError(Exception):
    """A reason in full why a declaration can't be used."""


T = TypeVar("T", bound=Any)  # which has a name
_REGISTRIES: "Final[list[Registry[Any]]]" = []


@dataclass(frozen=True)
class _Plugin:
    """A name that a distribution declares."""

    name: str
    distribution: str
    entries: tuple[EntryPoint, ...]


class Registry(Mapping[str, T]):
    """Declarations by name: this project's own, in their order, then those of plugins. One that
    can't be used is an InputError for what asks for it by name.

    Args:
        kind: the class of the declarations.
        group: the entry points' group, such as `minbert_bench.methods`.
        own: this project's.
        taken: further names that no plugin can have.
    """

    def __init__(
        self, kind: type[T], group: str, own: Iterable[T], taken: Iterable[str] = ()
    ) -> None:
        self.own: Final = {each.name: each for each in own}
        self._kind = kind
        self._group = group
        self._what: Final = group.rpartition(".")[2].removesuffix("s").replace("_", " ")
        self._taken = {*self.own, *taken}
        self._loaded: dict[str, T | InputError] = {}
        self._noted: set[str] = set()
        _REGISTRIES.append(self)

    @cached_property
    def _plugins(self) -> dict[str, _Plugin]:
        entries: dict[str, dict[str, EntryPoint]] = {}
        for entry in entry_points(group=self._group):
            owner = "an unknown distribution"
            if entry.dist is not None:
                owner = f"{entry.dist.name} {entry.dist.version}"
            entries.setdefault(entry.name, {})[owner] = entry
        return {
            name: _Plugin(name, " and ".join(sorted(each)), tuple(each.values()))
            for name, each in sorted(entries.items())
        }

    @cached_property
    def _names(self) -> tuple[str, ...]:
        others = [n for n in self._plugins if n not in self._taken and NAME.fullmatch(n)]
        return *self.own, *others

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    def __contains__(self, name: object) -> bool:
        return name in self.own or name in self._names

    def __getitem__(self, name: str) -> T:
        if name in self.own:
            return self.own[name]
        if name not in self._names:
            raise KeyError(name)
        loaded = self._load(self._plugins[name])
        if isinstance(loaded, InputError):
            raise loaded
        return loaded

    def known(self, name: str) -> T | None:
        try:
            return self[name]
        except (KeyError, InputError):
            return None

    def usable(self) -> dict[str, T]:
        """All declarations that can be used; a line on stderr, once, names each other plugin."""
        result = dict(self.own)
        for name, plugin in self._plugins.items():
            loaded = self._load(plugin)
            if not isinstance(loaded, InputError):
                result[name] = loaded
            elif name not in self._noted:
                self._noted.add(name)
                print(f"warning: {loaded}", file=sys.stderr)
        return result

    def plugin(self, name: str) -> str | None:
        """The distribution and version that declare a name, such as `some-plugin 1.0`; None for
        this project's own, and for a name that nothing declares."""
        return self._plugins[name].distribution if name in {*self._names} - self._taken else None

    def _load(self, plugin: _Plugin) -> T | InputError:
        if plugin.name not in self._loaded:
            try:
                self._loaded[plugin.name] = self._checked(plugin)
            except (Exception, SystemExit) as error:  # noqa: BLE001 (of code that is imported)
                kind = "" if isinstance(error, _UnusableError) else f"{type(error).__name__}: "
                why = kind + " ".join(str(error).split())[:_LONGEST]
                self._loaded[plugin.name] = InputError(
                    f"{plugin.distribution}: its {self._what} {plugin.name[:40]!r} can't be used: "
                    f"{why}; mend or uninstall it"
                )
        return self._loaded[plugin.name]

    def _checked(self, plugin: _Plugin) -> T:
        if not NAME.fullmatch(plugin.name):
            raise _UnusableError("its name has to be of lower-case letters, digits, _ and -")
        if plugin.name in self._taken:
            raise _UnusableError("this project has one of that name")
        if len(plugin.entries) > 1:
            raise _UnusableError("several distributions have one of that name")
        if not PLUGIN.fullmatch(plugin.distribution):
            raise _UnusableError("its distribution has no proper name and version")
        declared = plugin.entries[0].load()
        if not isinstance(declared, self._kind):
            kind = f"{self._kind.__module__}.{self._kind.__name__}"
            raise _UnusableError(f"{plugin.entries[0].value} is no {kind}")
        if declared.name != plugin.name:
            raise _UnusableError(f"it calls itself {declared.name!r}")
        return declared


def read_tables(module: str, name: str) -> dict[str, Any]:
    """The tables of a TOML file next to the `__file__` of a module, with tuples for lists."""

    def with_tuples(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: with_tuples(each) for key, each in value.items()}
        return tuple(map(with_tuples, value)) if isinstance(value, list) else value

    text = Path(module).with_name(name).read_text("utf-8")
    return {key: with_tuples(each) for key, each in tomllib.loads(text).items()}


def load(path: str) -> Any:
    """What a declaration names as `module:name`, which is imported."""
    module, _, name = path.partition(":")
    return getattr(import_module(module), name)


def declared_names(group: str) -> list[str]:
    """The names that plugins declare in a group of entry points, without importing them."""
    return sorted(name for name in entry_points(group=group).names if NAME.fullmatch(name))


def note_unusable() -> None:
    """Name on stderr the plugins that can't be used, of all registries that the process has."""
    for registry in _REGISTRIES:
        registry.usable()
