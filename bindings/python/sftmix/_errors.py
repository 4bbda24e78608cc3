"""Errors: subclasses of one class, by the names and with the fields that the library gives them."""

import inspect

from . import _core

Error = _core.SftmixError
Error.__str__ = lambda self: getattr(self, "detail", "") or Exception.__str__(self)


def _rebuilt(kind, fields):
    """An error that was pickled, as by another process."""
    return kind(**fields)


def _reduced(self):
    names = list(inspect.signature(type(self).__init__).parameters)[1:]
    state = vars(self)
    # What was added to it, such as notes, is no field: it is laid upon the error when it is whole again.
    more = {name: value for name, value in state.items() if name not in names}
    return _rebuilt, (type(self), {name: state[name] for name in names}), more or None


#: The classes by their names: ``Io`` of the library is ``IoError`` here.
CLASSES = {f"{name}Error": kind for name, kind in vars(Error).items() if not name.startswith("_") and isinstance(kind, type)}

for _name, _class in CLASSES.items():
    _class.__name__ = _class.__qualname__ = _name
    _class.__module__ = __package__
    _class.__reduce__ = _reduced
    _class.__repr__ = lambda self: f"{type(self).__name__}({str(self)!r})"


def misuse(what: str) -> Error:
    """A call that cannot be made as things stand, in the library's words for it."""
    return Error.Misuse(detail=f"misuse: {what}")


def invalid(field: str, reason: str) -> Error:
    """A setting that is wrong, in the library's words for it."""
    return Error.InvalidConfig(detail=f"invalid setting {field}: {reason}", field=field, reason=reason)


def failed(raised: BaseException) -> Error:
    """What goes to the library for an exception of a callback."""
    try:
        reason = f"{type(raised).__name__}: {raised}"
    except Exception:  # An exception of one's own may fail to say itself.
        reason = type(raised).__name__
    return Error.Callback(detail=f"a callback failed: {reason}", reason=reason)


def of_callback(error: Error, raised: "BaseException | None") -> BaseException:
    """What the caller sees of a callback that failed: the error with the exception as its cause, or, where that ends
    programs (an interrupt, an exit), the exception itself."""
    if raised is None:
        return error
    if not isinstance(raised, Exception):
        return raised
    error.__cause__ = raised
    return error
