"""Where a reward function's code lies, found without running it; no stage's process is needed to see a misspelt name."""

import importlib
import importlib.util
import symtable
import sys
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path


def function_file(function: str) -> Path | None:
    """The source file of `package.module:function`; None where the module is not found or has none."""
    spec = _find(function.partition(":")[0])
    if spec is None or spec.origin is None or not spec.origin.endswith(".py"):
        return None
    return Path(spec.origin)


def function_fault(function: str) -> str | None:
    """Why `package.module:function` cannot be imported, as far as its file shows; None where nothing speaks against it."""
    module, _, name = function.partition(":")
    if _find(module) is None:
        return f"{function}: there is no module {module}, neither in {Path.cwd()} nor installed"
    file = function_file(function)
    if file is None:  # compiled, or a folder without __init__.py: importing it will tell
        return None
    try:
        code = file.read_text(encoding="utf-8")
        symbols = symtable.symtable(code, str(file), "exec").get_symbols()
    except (OSError, UnicodeDecodeError, SyntaxError, ValueError) as error:
        return f"{function}: {file} is not Python: {error}"
    names = {symbol.get_name() for symbol in symbols if symbol.is_assigned() or symbol.is_imported()}
    names |= {symbol.get_name() for symbol in symbols if symbol.is_namespace()}
    if name in names or "__getattr__" in names or "import *" in code:
        return None
    return f"{function}: {file} defines no {name}"


def look_here_too() -> None:
    """Let Python import from the current folder, as `python -m` does: a recipe's paths are relative to it."""
    importlib.invalidate_caches()
    here = str(Path.cwd())
    if here not in sys.path and "" not in sys.path:
        sys.path.insert(0, here)


def _find(module: str) -> ModuleSpec | None:
    """Part by part, since `find_spec` of a dotted name would run the packages above it."""
    importlib.invalidate_caches()
    first, *rest = module.split(".")
    spec = PathFinder.find_spec(first, [str(Path.cwd())])
    # A folder of that name is a namespace package to Python only where nothing better is on the path.
    if spec is None or spec.origin is None:
        try:
            spec = importlib.util.find_spec(first) or spec
        except ValueError:  # a module that was made without a specification
            return None
    name = first
    for part in rest:
        locations = None if spec is None else spec.submodule_search_locations
        if locations is None:
            return None
        name = f"{name}.{part}"
        spec = PathFinder.find_spec(name, list(locations))
    return spec
