"""The small expression language of rules: arithmetic, comparisons and named functions over facts, nothing else.

An expression is parsed by Python's own `ast` and evaluated node by node; only the node types listed here
exist. There are no attributes, subscripts, lambdas or comprehensions, so an expression cannot reach
anything but the facts it is given, and its cost is bounded by its length.
"""

import ast
import inspect
import math
import operator
import re
from collections.abc import Callable, Collection, Mapping
from functools import lru_cache
from typing import Any

Value = float | int | str | bool | tuple[str, ...] | None

MAX_LENGTH = 500
"""Characters of one expression."""
MAX_EXPONENT = 64
MAX_NUMBER = 1e300
"""Largest number that may be written out."""

_PLACEHOLDER = re.compile(r"\{([^{}]*)\}")
_ARITHMETIC: dict[type[ast.operator], Callable[[float, float], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.Mod: operator.mod,
    ast.Pow: operator.pow,
}
_COMPARISONS: dict[type[ast.cmpop], Callable[[Any, Any], Any]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.In: lambda a, b: a in b,
    ast.NotIn: lambda a, b: a not in b,
}
_UNORDERED = (ast.Eq, ast.NotEq, ast.In, ast.NotIn)


class ExpressionError(ValueError):
    """An expression is not of the language, or cannot be evaluated over the facts at hand."""


class Language:
    """Expressions over one kind of facts.

    Attributes:
        names: the names an expression may use.
        functions: the functions it may call; each takes the facts as a first, unwritten argument.
    """

    def __init__(self, names: Collection[str], functions: Mapping[str, Callable[..., Value]]) -> None:
        self.names = frozenset(names)
        self.functions = dict(functions)

    def check(self, text: str, extra: Collection[str] = ()) -> None:
        """See that `text` is an expression of this language, before it is ever evaluated.

        Args:
            text: the expression.
            extra: names known besides `names`, e.g. a loop variable.

        Raises:
            ExpressionError: says what is not allowed or not known.
        """
        nodes = list(ast.walk(_parse(text)))
        calls = [node for node in nodes if isinstance(node, ast.Call)]
        for call in calls:
            self._check_call(call)
        called = {id(call.func) for call in calls}
        known = {*self.names, *extra}
        for node in nodes:
            if isinstance(node, ast.Name) and id(node) not in called and node.id not in known:
                raise ExpressionError(f"unknown name {node.id!r}; known names are {', '.join(sorted(known))}")

    def check_template(self, template: str, extra: Collection[str] = ()) -> None:
        """Check every ``{expression}`` in `template`; raises as `check` does."""
        for text in _PLACEHOLDER.findall(template):
            self.check(text, extra)

    def evaluate(self, text: str, facts: Any, names: Mapping[str, Value]) -> Value:
        """The value of `text` over `facts`.

        A division by zero is nan, and an ordering comparison with nan or None is false: a rule does not
        fire on what is not known.

        Raises:
            ExpressionError: not of the language, or values of the wrong kind.
        """
        try:
            return self._value(_parse(text), facts, names)
        except (TypeError, ValueError, OverflowError) as error:
            raise error if isinstance(error, ExpressionError) else ExpressionError(str(error)) from None

    def fill(self, template: str, facts: Any, names: Mapping[str, Value]) -> str:
        """Replace every ``{expression}`` in `template` by its value, numbers to five digits.

        What is filled in is not looked at again: braces in a metric's name stay plain text.
        """
        return _PLACEHOLDER.sub(lambda hit: show(self.evaluate(hit[1], facts, names)), template)

    def _check_call(self, node: ast.Call) -> None:
        if not isinstance(node.func, ast.Name) or node.func.id not in self.functions:
            raise ExpressionError(
                f"unknown function {ast.unparse(node.func)!r}; known are {', '.join(sorted(self.functions))}"
            )
        try:
            inspect.signature(self.functions[node.func.id]).bind(None, *node.args)
        except TypeError as error:
            raise ExpressionError(f"{node.func.id}: {error}") from None

    def _value(self, node: ast.expr, facts: Any, names: Mapping[str, Value]) -> Value:
        def value(child: ast.expr) -> Value:
            return self._value(child, facts, names)

        match node:
            case ast.Constant():
                return node.value  # type: ignore[return-value]  # _parse saw to its type
            case ast.Name():
                if node.id not in names:
                    raise ExpressionError(f"unknown name {node.id!r}")
                return names[node.id]
            case ast.BoolOp():
                wanted = isinstance(node.op, ast.Or)
                return any(map(value, node.values)) if wanted else all(map(value, node.values))
            case ast.UnaryOp(op=ast.Not()):
                return not value(node.operand)
            case ast.UnaryOp():
                return _calculate(ast.Sub, 0.0, value(node.operand))
            case ast.BinOp():
                return _calculate(type(node.op), value(node.left), value(node.right))
            case ast.Compare():
                sides = [value(side) for side in (node.left, *node.comparators)]
                return all(_compare(op, a, b) for op, a, b in zip(node.ops, sides[:-1], sides[1:], strict=True))
            case ast.Call(func=ast.Name(id=name)) if name in self.functions:
                try:
                    return self.functions[name](facts, *map(value, node.args))
                except (TypeError, ValueError, OverflowError) as error:
                    raise ExpressionError(f"{name}: {error}") from None
        raise ExpressionError(f"{ast.unparse(node)!r} is not allowed")


def show(value: Value) -> str:
    """A value as people read it, on one line and at most 120 characters."""
    match value:
        case bool():
            text = "yes" if value else "no"
        case None:
            text = "none"
        case int() | float():
            whole = math.isfinite(value) and value == int(value) and abs(value) < 1e9
            text = str(int(value)) if whole else f"{value:.5g}"
        case tuple():
            text = ", ".join(value) or "none"
        case str():
            text = value
    return cut(" ".join(text.split()), 120)


def cut(text: str, limit: int) -> str:
    """`text` in at most `limit` characters; what was cut off is shown by an ellipsis."""
    return text if len(text) <= limit else text[: limit - 1] + "…"


@lru_cache(maxsize=1024)
def _parse(text: str) -> ast.expr:
    if len(text) > MAX_LENGTH:
        raise ExpressionError(f"is longer than {MAX_LENGTH} characters")
    try:
        tree = ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise ExpressionError(f"is not an expression: {getattr(error, 'msg', error)}") from None
    for node in ast.walk(tree):
        if not _allowed(node):
            raise ExpressionError(f"{type(node).__name__.lower()} is not allowed in an expression")
    return tree


def _allowed(node: ast.AST) -> bool:
    match node:
        case ast.Constant():
            if isinstance(node.value, int | float):
                return abs(node.value) <= MAX_NUMBER
            return node.value is None or isinstance(node.value, str)
        case ast.BinOp():
            return type(node.op) in _ARITHMETIC
        case ast.UnaryOp():
            return isinstance(node.op, ast.Not | ast.USub)
        case ast.Compare():
            return all(type(op) in _COMPARISONS for op in node.ops)
        case ast.operator() | ast.cmpop() | ast.unaryop():
            return True  # judged with the node that holds them
    return isinstance(node, ast.BoolOp | ast.boolop | ast.Call | ast.Name | ast.Load)


def _calculate(op: type[ast.operator], left: Value, right: Value) -> float:
    if not isinstance(left, int | float) or not isinstance(right, int | float):
        raise ExpressionError(f"arithmetic needs numbers, not {show(left)!r} and {show(right)!r}")
    if op is ast.Pow and not abs(right) <= MAX_EXPONENT:
        raise ExpressionError(f"exponent {show(right)} is beyond {MAX_EXPONENT}")
    try:
        # As floats, so that no integer can grow without bound.
        result = _ARITHMETIC[op](float(left), float(right))
    except ZeroDivisionError:
        return math.nan
    except OverflowError:
        return math.inf
    return math.nan if isinstance(result, complex) else float(result)


def _compare(op: ast.cmpop, left: Value, right: Value) -> bool:
    if not isinstance(op, _UNORDERED) and (left is None or right is None):
        return False
    return bool(_COMPARISONS[type(op)](left, right))
