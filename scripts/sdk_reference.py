"""The page of the Python SDK in docs/reference: its public names with their docstrings, which griffe reads."""

from __future__ import annotations

import importlib
import itertools
import re
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import griffe
from markdown_tables import cell, table

ROOT = Path(__file__).resolve().parent.parent
PARTS = {
    "Clients and sessions": "Client Session TextStream Continuations Conversation Observer Labeller Watch Tenant "
    "request_id",
    "Options": "GenerateOptions SamplingOptions",
    "What calls give": "Completion Result FinishReason Usage Timings Sampling Resampled TokenLogprob Alternative "
    "SessionInfo Origin DeletionReceipt SealedState Score TextScore RankedText Suggestions Suggestion Peek Observed "
    "Verdict ConversationText Applied Ended LabelledText UnknownPart Inspection InspectedToken Activations ModelInfo "
    "Task Unit LabelScores ModelVersion ModelState LoadedModel HealthStatus ServerStatus ModelStatus MethodStatus "
    "TenantStatus Histogram KeptSession ExportedSession ErasureReceipt",
}
"""What the page has of each name, in the order in which readers meet it; the asyncio half and the errors follow."""
IN_SIGNATURES = (
    "Timeout NOT_GIVEN NotGiven DEFAULT_TARGET UnknownCharacters Mask SessionOrId ChannelOptions ConversationEvent"
)
"""What signatures name and has no more than a line in a table."""
LOCAL = "open LocalClient open_async LocalAsyncClient"
"""The public names of `charloom.local`."""
ASYNCIO = """\
These have the arguments, properties and methods of their blocking counterparts. A method that returns a value is
awaited, one that gives a value after the other is read with `async for`, and one that gives a stream, a session or a
watch returns at once."""
WIDTH = 100
"""Of a signature in one line."""

Type: TypeAlias = griffe.Expr | str


def loaded() -> griffe.Module:
    """The packages `charloom.client` and `charloom.local` as griffe reads them, without running them."""
    loader = griffe.GriffeLoader(
        search_paths=[ROOT / "client", ROOT / "server"],
        docstring_parser="google",
        docstring_options={"warnings": False},
        allow_inspection=False,
    )
    charloom = loader.load("charloom")
    loader.resolve_aliases(implicit=True)
    assert isinstance(charloom, griffe.Module)
    return charloom


def members(one: griffe.Class) -> dict[str, griffe.Object | griffe.Alias]:
    """The public attributes and methods of a class: those of its bases first, where it overrides none of them."""
    found: dict[str, griffe.Object | griffe.Alias] = {}
    for base in one.resolved_bases:
        found |= members(base)
    return found | {name: member for name, member in one.members.items() if not name.startswith("_")}


def methods(one: griffe.Class) -> dict[str, Any]:
    """The public methods of a class."""
    return {name: member for name, member in members(one).items() if member.is_function}


def description(one: griffe.Object | griffe.Alias) -> str:
    """The docstring of something as it stands."""
    return one.docstring.value if one.docstring else ""


def sections(one: griffe.Object | griffe.Alias) -> list[tuple[str, Any]]:
    """The docstring of something in parts: what kind each is, and what it says."""
    return [(part.kind.value, part.value) for part in one.docstring.parsed] if one.docstring else []


def names_in(kind: Type | None) -> list[str]:
    """The names of ours in an annotation."""
    parts = kind.iterate(flat=True) if isinstance(kind, griffe.Expr) else ()
    return [
        part.name for part in parts if isinstance(part, griffe.ExprName) and part.canonical_path.startswith("charloom.")
    ]


def signature(one: griffe.Function) -> list[str]:
    """How a function is called; without `self`, and without the type that makes it a context manager."""
    parts: list[str] = []
    names = dict(vars(importlib.import_module(one.module.path)))
    for parameter in one.parameters:
        kind = parameter.kind
        if parameter.name == "self":
            continue
        if kind is griffe.ParameterKind.keyword_only and "*" not in parts:
            parts.append("*")
        stars = {griffe.ParameterKind.var_positional: "*", griffe.ParameterKind.var_keyword: "**"}.get(kind, "")
        has_default = parameter.default is not None and not stars
        default = f" = {eval(str(parameter.default), names)!r}" if has_default else ""  # a constant may be private
        parts.append(f"{stars}{parameter.name}: {parameter.annotation}{default}")
    is_block = any(str(decorator.value) == "contextmanager" for decorator in one.decorators)
    start = "await" if "async" in one.labels else "with" if is_block else ""
    name = one.parent.name if one.name == "__init__" and one.parent else one.name
    start, end = f"{start} {name}(".lstrip(), ")" if is_block or one.name == "__init__" else f") -> {one.returns}"
    whole = start + ", ".join(parts) + end
    lines = [whole] if len(whole) <= WIDTH else [start, *(f"    {part}," for part in parts), end]
    return ["```python", *(line.replace("'", '"') for line in lines), "```", ""]


class Page:
    """The page, and where on it each public name is told."""

    def __init__(self) -> None:
        charloom = loaded()
        self.package, self.local = charloom["client"], charloom["local"]
        names = [str(name) for name in self.package.exports or ()]
        self.public: dict[str, Any] = {name: self.package[name].final_target for name in names}
        self.errors = [name for name in self.package["_errors"].members if name in self.public]
        self.asyncio = [name for name in self.public if name.startswith("Async")]
        headed = [*" ".join(PARTS.values()).split(), *self.asyncio, *self.errors]
        check("has no place in PARTS", self.public.keys() - {*headed, *IN_SIGNATURES.split()})
        check("has no place in LOCAL", {*map(str, self.local.exports)} - {*LOCAL.split()})
        self.anchors = dict.fromkeys(IN_SIGNATURES.split(), "names-in-signatures")
        self.anchors |= {name: name.lower() for name in LOCAL.split() if name[0].isupper()}
        self.told: dict[str, str] = {}  # the class under which a method is told that several have
        for name in headed:
            self.anchors[name] = name.lower()
            if self.public[name].is_class and name not in self.asyncio:
                for method, one in methods(self.public[name]).items():
                    place = self.told.setdefault(one.canonical_path, name)
                    self.anchors[f"{name}.{method}"] = f"{place}{method}".lower()

    def lines(self) -> Iterator[str]:
        """The page, but for its title."""
        yield from self.text(description(self.package))
        for part, names in PARTS.items():
            yield from [f"## {part}", ""]
            for name in names.split():
                one = self.public[name]
                yield from self.function(one, name, 3) if one.is_function else self.class_(one)
        yield from ["## Names in signatures", "", *self.in_signatures()]
        yield from ["## asyncio", "", ASYNCIO, ""]
        for name in self.asyncio:
            yield from self.asyncio_class(self.public[name], self.public[name.removeprefix("Async")])
        yield from ["## Errors", "", *self.tree("CharloomError"), ""]
        yield from self.text(description(self.package["_errors"]).split("\n\n")[-1])
        for name in self.errors:
            yield from self.class_(self.public[name])
        yield from ["## charloom.local", "", *self.text(description(self.local))]
        for name in LOCAL.split():
            one = self.local[name].final_target
            yield from self.function(one, f"charloom.local.{name}", 3) if one.is_function else self.brief(one)

    def class_(self, one: griffe.Class) -> Iterator[str]:
        """A class: what it is, how it is made where users make it, its fields and its methods."""
        yield from [f"### {one.name}", "", *self.docs(one, one.name), *self.fields(one)]
        mine: dict[str, Any] = {}
        others: dict[str, list[str]] = {}
        for name, method in methods(one).items():
            place = self.told[method.canonical_path]
            if place == one.name:
                mine[name] = method
            else:
                others.setdefault(place, []).append(self.link(f"{place}.{name}", name))
        if len(mine) > 5:
            yield from [f"Methods: {', '.join(self.link(f'{one.name}.{name}', name) for name in mine)}.", ""]
        for place, links in others.items():
            yield from [f"The same as those of {self.link(place)}: {', '.join(links)}.", ""]
        for name, method in mine.items():
            yield from self.function(method, f"{one.name}.{name}", 4)

    def fields(self, one: griffe.Class) -> list[str]:
        """The attributes of a class; of an error without those that it inherits."""
        is_error, is_enum = one.name in self.errors, "enum.Enum" in map(str, one.bases)
        told = {row.name: row for kind, rows in sections(one) if kind == "attributes" for row in rows}
        given = one.members["__init__"].parameters if "__init__" in one.members else {}
        rows = []
        for name, field in (one.members if is_error else members(one)).items():
            if name.startswith("_") or not field.is_attribute:
                continue
            kind = field.annotation or (given[name].annotation if name in given else None)
            doc = description(field) or (told[name].description if name in told else "")
            shown = f"`{field.value}`".replace("'", '"') if is_enum else self.type_(kind)
            rows.append([f"`{name}`", shown, cell(self.linked(doc, one.name))])
        return table(["name", "value" if is_enum else "type", ""], rows) if rows else []

    def function(self, one: griffe.Function, heading: str, level: int) -> Iterator[str]:
        """A function or method, and where what its signature names is told."""
        owner = heading.rpartition(".")[0]
        types = [*(parameter.annotation for parameter in one.parameters), one.returns]
        used = dict.fromkeys(name for kind in types for name in names_in(kind))
        check(f"of the signature of {heading} is told nowhere", used.keys() - self.anchors.keys())
        yield from [f"{'#' * level} {heading}", "", *signature(one)]
        yield from self.docs(one, owner, [parameter.name for parameter in one.parameters])
        if see := [self.link(name) for name in used if name not in (owner, *IN_SIGNATURES.split())]:
            yield from [f"See {', '.join(see)}.", ""]

    def asyncio_class(self, one: griffe.Class, blocking: griffe.Class) -> Iterator[str]:
        """A class of the asyncio half: what is different from its counterpart."""
        here = methods(one)
        check(f"of {one.name}, or of its counterpart, is not in both", here.keys() ^ methods(blocking).keys())
        yield from self.brief(one)
        ways: dict[str, list[str]] = {"`await`": [], "`async for`": [], "without either": []}
        for name, method in here.items():
            iterates = str(method.returns).startswith("AsyncIterator")
            way = "`async for`" if iterates else "`await`" if "async" in method.labels else "without either"
            ways[way].append(self.link(f"{blocking.name}.{name}", name))
        yield from [f"As {self.link(blocking.name)}, with", ""]
        yield from [*(f"- {way}: {', '.join(links)}" for way, links in ways.items() if links), ""]

    def brief(self, one: griffe.Class) -> Iterator[str]:
        """A class that is another one otherwise."""
        yield from [f"### {one.name}", ""]
        for kind, value in sections(one):
            if kind == "text":
                yield from self.text(value, one.name)

    def in_signatures(self) -> list[str]:
        """The table of what has no heading of its own."""
        rows = []
        for name in IN_SIGNATURES.split():
            homes = [module for module in self.package.modules.values() if name in module.members]
            (one,) = (home.members[name] for home in homes if not home.members[name].is_alias)
            is_type_variable = one.is_class or str(one.value).startswith("TypeVar")
            value = "" if is_type_variable else self.type_(one.value)
            here = re.sub(r"\[(\w+)\]\(#names-in-signatures\)", r"\1", value)
            rows.append([f"`{name}`", here, cell(description(one))])
        return table(["name", "is", ""], rows)

    def tree(self, name: str, depth: int = 0) -> Iterator[str]:
        """An error and those below it, as a list."""
        more = [f"`{base}`" for base in map(str, self.public[name].bases) if base not in (*self.errors, "Exception")]
        yield "    " * depth + f"- {self.link(name)}" + (f", also a {', '.join(more)}" if more else "")
        for below in self.errors:
            if name in map(str, self.public[below].bases):
                yield from self.tree(below, depth + 1)

    def docs(self, one: griffe.Object, inside: str, arguments: Sequence[str] = ()) -> Iterator[str]:
        """What a docstring says, with arguments and errors as lists; what it says of fields is in their table."""
        for kind, value in sections(one):
            if kind == "text":
                yield from self.text(value, inside, arguments)
            elif kind == "parameters":
                if isinstance(one, griffe.Class):
                    yield from signature(one.members["__init__"])
                yield from ["Arguments:", ""]
                yield from [*(f"- `{row.name}`: {self.flat(row.description, inside)}" for row in value), ""]
            elif kind == "raises":
                yield from ["Raises:", ""]
                yield from [*(f"- {self.link(str(row.annotation))}: {self.flat(row.description)}" for row in value), ""]
            elif kind != "attributes":
                raise SystemExit(f"scripts/sdk_reference.py: {one.path} says {kind}, for which the page has no form")

    def text(self, text: str, inside: str = "", arguments: Sequence[str] = ()) -> Iterator[str]:
        """Paragraphs, with links for the names in them, and code where they are indented."""
        for is_code, parts in itertools.groupby(text.split("\n\n"), lambda part: part.startswith("    ")):
            joined = "\n\n".join(parts)
            if is_code:
                yield from ["```python", *textwrap.dedent(joined).strip("\n").splitlines(), "```", ""]
            else:
                yield from [*self.linked(joined, inside, arguments).splitlines(), ""]

    def flat(self, text: str, inside: str = "") -> str:
        """Text in one line."""
        return " ".join(self.linked(text, inside).split())

    def linked(self, text: str, inside: str = "", arguments: Sequence[str] = ()) -> str:
        """Text whose names in backticks lead to where they are told; arguments of the method itself do not."""

        def led(found: re.Match[str]) -> str:
            name = found[1].removeprefix("charloom.client.")
            if name in arguments or name == inside:
                return found[0]
            return self.link(f"{inside}.{name}" if f"{inside}.{name}" in self.anchors else name, found[1])

        return re.sub(r"`([\w.]+)`", led, text)

    def link(self, name: str, words: str = "") -> str:
        """A name, as a link if it is told on the page."""
        place = self.anchors.get(name) or self.anchors.get(name.rpartition(".")[0])
        return f"[`{words or name}`](#{place})" if place else f"`{words or name}`"

    def type_(self, kind: Type | None) -> str:
        """A type in a table, with links for the names of ours in it."""
        if kind is None:
            return ""
        ours = names_in(kind)
        words = re.sub(r"\w+", lambda word: self.link(word[0]) if word[0] in ours else word[0], str(kind))
        return cell(words.replace("`", "").replace("'", '"'))


def check(problem: str, names: set[str]) -> None:
    """Fail where names are left over."""
    if names:
        raise SystemExit(f"scripts/sdk_reference.py: {', '.join(sorted(names))} {problem}")


def sdk() -> list[str]:
    """The public names of the SDK."""
    return list(Page().lines())
