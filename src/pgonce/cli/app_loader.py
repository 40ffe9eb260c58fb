"""Loads the App that ``--app`` names, and says what is wrong with the name."""

from __future__ import annotations

import contextlib
import importlib
import inspect
import re
import sys
import traceback
from pathlib import Path
from types import ModuleType
from typing import Any

from pgonce.app import App
from pgonce.errors import InvalidArgument


def load(reference: str) -> App:
    """Load the App that ``module:attribute`` names. The current folder is searched, too.

    What the module prints goes to stderr, because the command's own output may be JSON.

    Raises:
        InvalidArgument: the module or attribute does not exist, or it is not an App.
    """
    path = reference.strip().replace("\\", "/")
    drive = path[:2] if re.match("[A-Za-z]:/", path) else ""  # its colon begins no attribute
    module_name, _, attribute = path.removeprefix(drive).partition(":")
    module_name = drive + module_name
    attribute = attribute.strip() or "app"
    if module_name.rstrip("/").endswith(".py") or "/" in module_name:
        raise InvalidArgument(
            f"--app {reference} names a file, not a module: {_as_module(Path(module_name), attribute)}"
        )
    if not all(part.isidentifier() for part in module_name.split(".")):
        raise InvalidArgument(f"{reference!r} is not a module: pass --app module:app")
    module = _import(module_name)
    app: Any = module
    for part in attribute.removesuffix("()").split("."):
        app = getattr(app, part, None)
    if isinstance(app, App):
        app.name = app.name or f"{module_name}:{attribute}"
        return app
    raise InvalidArgument(_not_an_app(module, app, attribute))


def _import(name: str) -> ModuleType:
    if (folder := str(Path.cwd())) not in sys.path:
        sys.path.insert(0, folder)
    try:
        with contextlib.redirect_stdout(sys.stderr):
            return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not (name + ".").startswith(error.name + "."):  # the app imports it
            raise InvalidArgument(f"{name} cannot be imported: {_reason(error)}") from error
        above, _, last = name.rpartition(".")
        if above and above != error.name and isinstance(getattr(sys.modules.get(above), last, None), App):
            raise InvalidArgument(f"{last} is an App in module {above}: pass --app {above}:{last}") from error
        raise InvalidArgument(f"there is no module {name!r} here: pass --app module:app") from error
    except (ImportError, SyntaxError) as error:
        raise InvalidArgument(f"{name} cannot be imported: {_reason(error)}") from error
    except SystemExit as error:
        text = f" ({error.code})" if isinstance(error.code, str) else ""
        raise InvalidArgument(
            f"{name} ends the process when it is imported{text}: "
            'put what it does as a program under if __name__ == "__main__":'
        ) from error


def _as_module(file: Path, attribute: str) -> str:
    """How to name the App in ``file``: from the current folder if its folders can be imported, else from its own."""
    if file.is_absolute() and file.is_relative_to(Path.cwd()):
        file = file.relative_to(Path.cwd())
    module = file.with_suffix("") if file.suffix == ".py" else file
    named = "" if attribute == "app" else f":{attribute}"
    if not file.is_absolute() and all(part.isidentifier() for part in module.parts):
        return f"pass --app {'.'.join(module.parts)}{named}"
    return f"run the command in {file.parent}, and pass --app {module.name}{named}"


def _not_an_app(module: ModuleType, found: Any, attribute: str) -> str:
    """Why ``found`` is not an App, and which one to name."""
    name = module.__name__
    hidden = Path.cwd() / f"{name}.py"
    if hidden.is_file() and Path(str(getattr(module, "__file__", ""))).resolve() != hidden.resolve():
        return f"{name} is another module, which hides {hidden.name} here: rename the file"
    apps = [each for each, value in vars(module).items() if isinstance(value, App)]
    instead = f"pass --app {' or '.join(f'{name}:{each}' for each in apps)}" if apps else ""
    if found is None or isinstance(found, ModuleType):
        return f"{name} has no pgonce.App called {attribute!r}: {instead or 'pass --app module:app'}"
    if inspect.isroutine(found):
        call = attribute.removesuffix("()")
        write = f"write app = {call}() in {name} and pass --app {name}:app"
        return f"{name}:{attribute} is a function, not a pgonce.App: {instead or write}"
    what = "a class" if isinstance(found, type) else f"of type {type(found).__name__}"
    return f"{name}:{attribute} is {what}, not a pgonce.App: {instead or 'pass --app module:app'}"


def _reason(error: ImportError | SyntaxError) -> str:
    """The error and its place in the code. The text of a SyntaxError already contains the place."""
    frames = traceback.extract_tb(error.__traceback__)
    if isinstance(error, ImportError) and frames:
        here = [frame for frame in frames if not frame.filename.startswith("<frozen")][-1]
        place = f"{Path(here.filename).name}, line {here.lineno}"
        # not by the error's text: from Python 3.13 on it may advise to rename the file instead
        if error.name and any(frame.filename == error.path for frame in frames):
            return f"{error.name} and another module import each other ({place}): in {error.name}, import that one last"
        return f"{error} ({place})"
    return f"{type(error).__name__}: {error}"
