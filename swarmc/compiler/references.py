"""Names of a user's own code, and what they stand for: `package.module:attribute` or `path/to/file.py:attribute`."""

import hashlib
import importlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from swarmc.contracts.errors import SpecError


def resolve(reference: str, kind: type[SpecError], what: str) -> Any:
    """The object that `reference` names.

    Args:
        reference: `package.module:attribute` or `path/to/file.py:attribute`; attributes may be dotted.
        kind: The error to raise.
        what: What is being looked for, for the error: `"the program"`.

    Raises:
        SpecError: as `kind`: no colon, no such file or module, an error while importing it, no such attribute.
    """
    where, colon, attribute = reference.rpartition(":")
    if not colon or not where or not attribute:
        raise kind(f"{what} {reference!r} is no `package.module:attribute` and no `path/to/file.py:attribute`")
    module = _module(where, reference, kind, what)
    value: Any = module
    for part in attribute.split("."):
        try:
            value = getattr(value, part)
        except AttributeError:
            public = ", ".join(sorted(name for name in vars(module) if not name.startswith("_"))[:12])
            raise kind(f"{what} {reference!r}: {where} has no {attribute!r}; it has: {public}") from None
    return value


def _module(where: str, reference: str, kind: type[SpecError], what: str) -> ModuleType:
    if where.endswith(".py") and not Path(where).is_file():
        raise kind(f"{what} {reference!r}: no file {where} in {Path.cwd()}")
    try:
        if where.endswith(".py"):
            return _module_of_file(Path(where))
        return importlib.import_module(where)
    except ModuleNotFoundError as error:
        if error.name and (where == error.name or where.startswith(error.name + ".")):
            raise kind(
                f"{what} {reference!r}: no module {where!r} here (python looked in {sys.path[:3]} ...)"
            ) from None
        raise kind(f"{what} {reference!r}: importing {where} needs the module {error.name!r}; install it") from error
    except (Exception, SystemExit) as error:
        raise kind(f"{what} {reference!r}: importing {where} raised {type(error).__name__}: {error}") from error


def _module_of_file(path: Path) -> ModuleType:
    """The file as a module, loaded once per process under a name that shadows nothing."""
    path = path.resolve(strict=True)
    digest = hashlib.sha256(str(path).encode()).hexdigest()[:8]
    name = f"swarmc_file_{path.stem}_{digest}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # Registered first, so that classes defined in it can be found by their module's name.
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module
