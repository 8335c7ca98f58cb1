"""What the source code of a module's class says about its layers, on every path and not only on one that was traced."""

from __future__ import annotations

import ast
import functools
import inspect
import itertools
import sys
import textwrap
import types
from typing import TypeGuard

from torch import nn

_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)
# What finds layers without naming them.
_FINDERS = ("children", "named_children", "get_submodule", "_modules", "__dict__")
_ITERATORS = ("enumerate", "zip", "reversed", "list", "tuple", "iter")
_ASKS = ("isinstance", "len", "range", "str", "type")
_TORCHS = ("torch.nn.", "torch.distributed.", "torch._dynamo.", "torch.optim.")


def _methods(kind: type[nn.Module]) -> list[ast.FunctionDef] | None:
    """Every method, its own and inherited; of constructors only the functions that they make. None if the source of
    one is not at hand."""
    found: list[ast.FunctionDef] = []
    for base in kind.__mro__:
        if base is object or base.__module__.startswith(_TORCHS):
            continue
        source = _source(base)
        if source is None or not _all_in(base, source[1]):
            return None
        for part in source[0].body:
            inner = [node for node in ast.walk(part) if isinstance(node, _FUNCTIONS) and node is not part]
            if not isinstance(part, ast.FunctionDef):
                if inner or isinstance(part, _FUNCTIONS):
                    return None
            elif part.name != "__init__":
                found.append(part)
            elif inner:
                body: list[ast.stmt] = [ast.Expr(node) if isinstance(node, ast.Lambda) else node for node in inner]
                found.append(ast.FunctionDef(name=part.name, args=part.args, body=body, decorator_list=[]))
    return found


@functools.lru_cache(maxsize=256)
def _source(kind: type) -> tuple[ast.ClassDef, range] | None:
    """The syntax tree of a class and its lines."""
    try:
        lines, start = inspect.getsourcelines(kind)
        (tree,) = ast.parse(textwrap.dedent("".join(lines))).body
    except (OSError, TypeError, SyntaxError, ValueError):
        return None
    return (tree, range(start, start + len(lines))) if isinstance(tree, ast.ClassDef) else None


def _all_in(kind: type, lines: range) -> bool:
    """Whether every function of the class stands in its source: none was put in from elsewhere."""
    for member in vars(kind).values():
        if isinstance(member, (functools.partialmethod, functools.cached_property)):
            return False
        function = inspect.unwrap(getattr(member, "fget", None) or getattr(member, "__func__", member))
        if isinstance(function, types.FunctionType) and (
            function.__code__.co_firstlineno not in lines
            or inspect.getsourcefile(function) != inspect.getsourcefile(kind)
        ):
            return False
    return True


def in_one_line(kind: type[nn.Module], first: str, second: str) -> bool:
    """Whether the code has ``self.second(self.first(...))``, or ``v = self.first(...)`` directly before
    ``v = self.second(v)`` or ``return self.second(v)``, and names neither anywhere else."""
    functions = _methods(kind)
    if functions is None or any(_finds(function, {first, second}) for function in functions):
        return False
    reads = [[(f, node) for f in functions for node in _reads(f, name)] for name in (first, second)]
    if any(len(found) != 1 or not _is_own(*found[0]) for found in reads):
        return False
    ((function, one),), ((_, two),) = reads
    nodes = list(ast.walk(function))
    # a finally or an inner function may use a variable after the return
    ends = not any(isinstance(node, (ast.Try, *_FUNCTIONS)) and node is not function for node in nodes)
    return any(_is_chain(node, one, two, ends) for node in nodes)


def _is_chain(node: ast.AST, first: ast.Attribute, second: ast.Attribute, ends: bool) -> bool:
    """``ends``: whether nothing can run after a return."""
    argument = _only_argument(node, second)
    if argument is not None and _only_argument(argument, first) is not None:
        return True
    for body in (getattr(node, name, None) for name in ("body", "orelse", "finalbody")):
        for one, two in itertools.pairwise(body) if isinstance(body, list) else ():
            variable = _assigned(one)
            if variable is None or _only_argument(one.value, first) is None:
                continue
            if not ((isinstance(two, ast.Return) and ends) or _assigned(two) == variable) or two.value is None:
                continue
            argument = _only_argument(two.value, second)
            if isinstance(argument, ast.Name) and argument.id == variable:
                return True
    return False


def _only_argument(node: ast.AST, function: ast.Attribute) -> ast.expr | None:
    """The argument of the call ``function(argument)``, if that is what ``node`` is."""
    if isinstance(node, ast.Call) and node.func is function and len(node.args) == 1 and not node.keywords:
        return node.args[0]
    return None


def _assigned(node: ast.AST) -> str | None:
    """The variable of ``variable = ...``."""
    if isinstance(node, ast.Assign) and len(node.targets) == 1 and isinstance(node.targets[0], ast.Name):
        return node.targets[0].id
    return None


def only_calls(kind: type[nn.Module], name: str) -> bool | None:
    """Whether all that the code does with ``self.name`` is to call it or to compare it with None; None if the source
    is not at hand."""
    functions = _methods(kind)
    if functions is None:
        return None
    for function in functions:
        nodes = list(ast.walk(function))
        allowed = {id(node.func) for node in nodes if isinstance(node, ast.Call)}
        allowed |= {id(node.left) for node in nodes if _is_none_check(node)}
        if _finds(function, {name}):
            return False
        if any(id(node) not in allowed for node in _reads(function, name) if _is_own(function, node)):
            return False
    return True


def _is_none_check(node: ast.AST) -> TypeGuard[ast.Compare]:
    if not isinstance(node, ast.Compare) or len(node.ops) != 1 or not isinstance(node.ops[0], (ast.Is, ast.IsNot)):
        return False
    (other,) = node.comparators
    return isinstance(other, ast.Constant) and other.value is None


def opens_elements(kind: type[nn.Module], name: str) -> bool:
    """Whether the code may do more with the elements of the container ``self.name``, or of ``self`` as a container,
    than call them."""
    return any(_opens(function, name) for function in _methods(kind) or ())


def _opens(function: ast.FunctionDef, name: str) -> bool:
    parents = {id(child): node for node in ast.walk(function) for child in ast.iter_child_nodes(node)}
    reads = [node for read in (name, "items", "values") for node in _reads(function, read) if _is_own(function, node)]
    variables: set[str] = set()
    for read in reads:
        node: ast.AST = read
        parent = parents[id(node)]
        if isinstance(parent, ast.Subscript) and parent.value is node:
            node, parent = parent, parents[id(parent)]
            if isinstance(parent, ast.Subscript) or (isinstance(parent, ast.Attribute) and parent.attr in _FINDERS):
                return True
        is_method = read.attr != name
        while isinstance(parent, ast.Call) and (
            (is_method and parent.func is node) or _name(parent.func) in _ITERATORS
        ):
            node, parent = parent, parents[id(parent)]
        if isinstance(parent, (ast.For, ast.comprehension)) or (
            isinstance(parent, ast.Assign) and parent.value is node
        ):
            targets = parent.targets if isinstance(parent, ast.Assign) else [parent.target]
            variables |= {name.id for target in targets for name in ast.walk(target) if isinstance(name, ast.Name)}
        elif isinstance(parent, ast.Call) and not (parent.func is node or _name(parent.func) in _ASKS):
            return True
    return any(
        isinstance(node, ast.Name) and node.id in variables and not _is_harmless(node, parents[id(node)])
        for node in ast.walk(function)
    )


def _is_harmless(variable: ast.Name, parent: ast.AST) -> bool:
    """Whether an element, or its index, is not taken apart: it is bound, called, compared or has an attribute read."""
    if isinstance(variable.ctx, ast.Store) or isinstance(parent, (ast.Compare, ast.BinOp, ast.FormattedValue)):
        return True
    if isinstance(parent, ast.Attribute):
        return parent.attr not in _FINDERS
    if isinstance(parent, ast.Subscript):
        return parent.value is not variable
    return isinstance(parent, ast.Call) and (parent.func is variable or _name(parent.func) in _ASKS)


def _name(node: ast.AST) -> str | None:
    return node.id if isinstance(node, ast.Name) else None


def reaches_into(kind: type[nn.Module], names: set[str]) -> bool:
    """Whether the code reads one of these attributes of anything but ``self`` and imported modules (``F.relu``)."""
    return any(
        not (_is_own(function, node) or _is_of_import(kind, function, node))
        for function in _methods(kind) or ()
        for name in names
        for node in _reads(function, name)
    )


def _is_of_import(kind: type[nn.Module], function: ast.FunctionDef, node: ast.Attribute) -> bool:
    root = node.value
    while isinstance(root, ast.Attribute):
        root = root.value
    if not isinstance(root, ast.Name):
        return False
    for other in ast.walk(function):
        is_bound = isinstance(other, ast.Name) and other.id == root.id and isinstance(other.ctx, ast.Store)
        if is_bound or (isinstance(other, ast.arg) and other.arg == root.id):
            return False
    spaces = [vars(sys.modules[base.__module__]) for base in kind.__mro__ if base.__module__ in sys.modules]
    return any(isinstance(space.get(root.id), types.ModuleType) for space in spaces)


def _reads(function: ast.FunctionDef, name: str) -> list[ast.Attribute]:
    """Where the attribute is read, or set."""
    return [node for node in ast.walk(function) if isinstance(node, ast.Attribute) and node.attr == name]


def _is_own(function: ast.FunctionDef, node: ast.Attribute) -> bool:
    arguments = [*function.args.posonlyargs, *function.args.args]
    return bool(arguments) and isinstance(node.value, ast.Name) and node.value.id == arguments[0].arg


def _finds(function: ast.FunctionDef, names: set[str]) -> bool:
    """Whether the function may get at the attributes without naming them: by a string, as for getattr, or by a walk."""
    if any(isinstance(node, ast.Constant) and node.value in names for node in ast.walk(function)):
        return True
    return any(_is_own(function, node) for name in _FINDERS for node in _reads(function, name))
