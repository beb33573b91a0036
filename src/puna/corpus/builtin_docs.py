"""The documentation of what is written in C: run as a program by a fresh, isolated interpreter.

Comes in: nothing. Goes out, on stdout: one JSON object per line, {"module", "name", "kind", "signature", "doc"}, in a fixed
order; "kind" is function, method, class, module, or skipped for a module that cannot be loaded. Must never happen: that the importing of an extension module touches the process that builds the corpus; so this file
imports nothing of puna, and is started as `python -I -S builtin_docs.py`.
"""

import importlib
import inspect
import json
import os
import pkgutil
import re
import sys
import sysconfig
import warnings
from types import ModuleType
from typing import Any

# Modules whose import changes the terminal, opens a display, or that exist for CPython's own tests.
_AVOID = re.compile(
    r"_?(readline|tkinter|curses.*|xx.*|test.*|ctypes_test|bootlocale|nis|ossaudiodev|antigravity|this)$"
)
# Public names of what an underscored module holds: the first of these that shows the object gives it its name.
_PUBLIC = """
os io collections functools operator heapq bisect datetime decimal json random re socket ssl sqlite3 struct csv hashlib bz2
lzma threading weakref statistics pickle copyreg copy ast codecs contextvars asyncio typing abc string select selectors signal
locale tracemalloc warnings types queue xml.etree.ElementTree xml.parsers.expat uuid zoneinfo ctypes opcode symtable tokenize
importlib.machinery dbm.gnu dbm.ndbm multiprocessing.shared_memory crypt
"""
_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")


def _import(name: str) -> ModuleType | None:
    try:
        return importlib.import_module(name)
    except ImportError:  # an extension built without its library is listed and cannot be loaded
        return None


def _c_modules() -> list[str]:
    folder = sysconfig.get_config_var("DESTSHARED") or ""
    names = set(sys.builtin_module_names)
    if os.path.isdir(folder):
        names.update(info.name for info in pkgutil.iter_modules([folder]))
    # The built-ins come first: what they share with another module (open) is theirs.
    return sorted((name for name in names if not _AVOID.match(name)), key=lambda name: (name != "builtins", name))


def _signature(value: Any) -> str:
    try:
        text = str(inspect.signature(value))
    except (ValueError, TypeError, AttributeError, NameError):
        return ""  # none is told, or its defaults name what cannot be found (select.epoll.register in Python 3.13)
    return "" if _ADDRESS.search(text) else text


def _doc(value: Any) -> str:
    doc = getattr(value, "__doc__", None)
    return inspect.cleandoc(doc) if isinstance(doc, str) else ""


def _entries(module: str, name: str, value: Any) -> list[dict[str, str]]:
    kind = "class" if isinstance(value, type) else "function"
    out = [{"module": module, "name": name, "kind": kind, "signature": _signature(value), "doc": _doc(value)}]
    if kind == "class":
        for key in sorted(vars(value)):
            member = vars(value)[key]
            # Slots and descriptors of data are no calls.
            if key.startswith("_") or not (callable(member) or isinstance(member, (classmethod, staticmethod))):
                continue
            bound = getattr(value, key)
            if isinstance(bound, type) or not _doc(bound):
                continue
            out.append(
                {
                    "module": module,
                    "name": f"{name}.{key}",
                    "kind": "method",
                    "signature": _signature(bound),
                    "doc": _doc(bound),
                }
            )
    return out


def _emit(entry: dict[str, str]) -> None:
    sys.stdout.write(json.dumps(entry) + "\n")


def _names(module: ModuleType) -> list[str]:
    # Of two names of one object its own comes first: array.array before array.ArrayType.
    values = vars(module)
    return sorted(values, key=lambda name: (getattr(values[name], "__name__", None) != name, name))


def main() -> None:
    """Print the documentation of all C modules, public names first."""
    warnings.simplefilter("ignore")
    loaded = [(name, _import(name)) for name in _c_modules()]
    home: dict[int, tuple[str, str]] = {}
    held: list[Any] = []  # an object that is freed would give its id to another
    for public in _PUBLIC.split():
        module = _import(public)
        for name in _names(module) if module else []:
            value = vars(module)[name]
            if not name.startswith("_") and (isinstance(value, type) or inspect.isbuiltin(value)):
                held.append(value)
                home.setdefault(id(value), (public, name))
    seen: set[int] = set()
    for c_name, module in loaded:
        if module is None:
            _emit({"module": c_name, "name": "", "kind": "skipped", "signature": "", "doc": ""})
            continue
        _emit({"module": c_name, "name": "", "kind": "module", "signature": "", "doc": _doc(module)})
        for name in _names(module):
            value = vars(module)[name]
            if name.startswith("_") or not (isinstance(value, type) or inspect.isbuiltin(value)) or id(value) in seen:
                continue
            owner = getattr(value, "__module__", None)
            if c_name != "builtins" and owner == "builtins":
                continue  # an alias of a built-in exception
            seen.add(id(value))
            held.append(value)
            place, shown = home.get(id(value), (c_name, name)) if c_name != "builtins" else (c_name, name)
            if not c_name.startswith("_") and c_name != "posix":
                place, shown = c_name, name
            for entry in _entries(place, shown, value):
                _emit(entry)


if __name__ == "__main__":
    main()
