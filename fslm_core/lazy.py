"""A value that is worked out when it is first asked for, and kept."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, Self, TypeVar, overload

T = TypeVar("T")


class lazy(Generic[T]):
    """``functools.cached_property`` without its lock.

    Up to Python 3.11 that one holds a lock of the whole class while a value is worked out. A process forked at that
    moment inherits it held, and its first use of the property waits for ever (removed in 3.12 for other reasons:
    https://docs.python.org/3/library/functools.html#functools.cached_property). Without a lock two threads may both
    work the value out; the last one's is kept.

    >>> class Circle:
    ...     radius = 2.0
    ...     @lazy
    ...     def area(self) -> float:
    ...         return 3.14 * self.radius**2
    >>> circle = Circle()
    >>> circle.area, vars(circle)
    (12.56, {'area': 12.56})
    """

    def __init__(self, make: Callable[[Any], T]) -> None:
        self._make = make
        self._name = make.__name__
        self.__doc__ = make.__doc__

    @overload
    def __get__(self, instance: None, owner: type[Any]) -> Self: ...
    @overload
    def __get__(self, instance: object, owner: type[Any]) -> T: ...
    def __get__(self, instance: object | None, owner: type[Any]) -> Self | T:
        if instance is None:
            return self
        value = vars(instance)[self._name] = self._make(instance)
        return value


__all__ = ["lazy"]
