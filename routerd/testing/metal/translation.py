"""A Metal shader's text as C++: address spaces become checked pointers, and each entry point gets a function to call it by.

What a translated shader means is in the headers beside this file (``shim/``). Lines keep their numbers, so the compiler's
messages and the shim's name lines of the shader.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from routerd.errors import PluginError

#: Metal's attributes of a thread, and what of the shim's ``place`` they are; the sizes are 1 in other directions than x.
ATTRIBUTES = {
    "thread_position_in_grid": "place.group * place.full_group_size + place.index",
    "thread_position_in_threadgroup": "place.index",
    "thread_index_in_threadgroup": "place.index",
    "threadgroup_position_in_grid": "place.group",
    "threads_per_grid": "place.grid",
    "threadgroups_per_grid": "place.groups",
    "threads_per_threadgroup": "place.group_size",
    "dispatch_threads_per_threadgroup": "place.full_group_size",
    "thread_index_in_simdgroup": "place.index % simd_width",
    "simdgroup_index_in_threadgroup": "place.index / simd_width",
    "simdgroups_per_threadgroup": "(place.group_size + simd_width - 1) / simd_width",
    "threads_per_simdgroup": "simd_width",
}

_TYPE = r"[A-Za-z_][\w:]*(?:\s*<[^<>;{}]*>)?"
_QUALIFIED = re.compile(
    rf"(?P<before>\bconst\s+)?\b(?P<space>device|constant|threadgroup|thread)\s+(?P<after>const\s+)?"
    rf"(?P<type>{_TYPE})(?P<late>\s+const\b)?(?P<gap>\s*)(?P<mark>[*&])?"
)
_SHARED = re.compile(
    rf"(?<=[;{{}}])(?P<lead>\s*)\bthreadgroup\s+(?P<type>{_TYPE})\s+(?P<name>\w+)\s*(?P<lengths>(?:\[[^\]]*\]\s*)*);"
)
_ENTRY = re.compile(r"(?:\bkernel|\[\[\s*kernel\s*\]\])\s+void\s+(?P<name>\w+)\s*\(")
_ATTRIBUTE = re.compile(r"\[\[\s*(?P<name>\w+)\s*(?:\(\s*(?P<number>\d+)\s*\))?\s*\]\]")
_LITERAL = re.compile(r"(?<![\w.])(?:(?:\d+\.\d*|\.\d+)(?:[eE][+-]?\d+)?|\d+[eE][+-]?\d+)(?![\w.])")
_COMMENT = re.compile(r"//[^\n]*|/\*.*?\*/", re.DOTALL)


@dataclass(frozen=True, slots=True)
class BufferParameter:
    """A buffer of an entry point: its index, name and element type, as ``float``; ``pointer`` is False for a reference."""

    index: int
    name: str
    element: str
    pointer: bool


@dataclass(frozen=True, slots=True)
class EntryPoint:
    """A ``kernel void`` function: its buffers in the order of their indexes."""

    name: str
    buffers: tuple[BufferParameter, ...]


@dataclass(frozen=True, slots=True)
class Translation:
    """C++ text that needs ``shim/functions.h`` before it, and the entry points by name."""

    text: str
    entries: dict[str, EntryPoint]


def translate(text: str, name: str) -> Translation:
    """The C++ of a Metal text without ``#include`` of other shaders; ``name`` is what the compiler calls it.

    Raises ``PluginError`` for an entry point that asks for what the shim has not: an attribute that it does not know, or
    threadgroup memory whose length the host gives.
    """
    plain = _COMMENT.sub(lambda found: re.sub(r"[^\n]", " ", found[0]), text)
    plain = re.sub(r"^[ \t]*#[ \t]*include[ \t]*<metal_\w+>", "", plain, flags=re.MULTILINE)
    entries: dict[str, EntryPoint] = {}
    callers = []
    for found in _ENTRY.finditer(plain):
        entry, caller = _entry(found["name"], _enclosed(plain, found.end() - 1))
        entries[entry.name] = entry
        callers.append(caller)
    body = _SHARED.sub(_shared, plain)
    body = _QUALIFIED.sub(_qualified, body)
    body = _ATTRIBUTE.sub("", body)
    body = re.sub(r"\bkernel\s+void\b", "static void", body)
    body = re.sub(r"\bdouble\b", "metal_has_no_double", body)
    body = _LITERAL.sub(lambda found: f"{found[0]}f", body)
    return Translation(f'#line 1 "{name}"\n{body}\n#line 1 "callers"\n' + "\n".join(callers), entries)


def _entry(name: str, parameters: str) -> tuple[EntryPoint, str]:
    buffers, values = [], []
    for number, parameter in enumerate(_split(parameters)):
        attribute = _ATTRIBUTE.search(parameter)
        declared = _ATTRIBUTE.sub("", parameter).strip()
        if attribute is None or attribute["name"] == "buffer":
            index = int(attribute["number"]) if attribute and attribute["number"] else number
            buffer, value = _buffer(name, declared, index)
            buffers.append(buffer)
            values.append(value)
        elif attribute["name"] in ATTRIBUTES:
            values.append(_coordinate(declared, attribute["name"]))
        else:
            raise PluginError(
                f"the entry point {name} asks for [[{attribute['name']}]], which cannot be had on a processor; "
                f"known are buffer, {', '.join(ATTRIBUTES)}"
            )
    buffers.sort(key=lambda one: one.index)
    if [one.index for one in buffers] != list(range(len(buffers))):
        raise PluginError(f"the buffers of the entry point {name} must have the indexes 0…{len(buffers) - 1}")
    caller = (
        f"static void metal_shim_call_{name}(const metal_shim::Region* buffers) {{\n"
        f"    using namespace metal_shim;\n    (void)buffers;\n    ::{name}({', '.join(values)});\n}}\n"
        f'extern "C" __attribute__((visibility("default"))) int metal_shim_launch_{name}(void* const* data, const size_t* bytes, const char* const* names, '
        f"unsigned count, unsigned threads, unsigned size, char* message, size_t room) {{\n"
        f"    return metal_shim::launch(metal_shim_call_{name}, data, bytes, names, count, threads, size, message, room);\n}}"
    )
    return EntryPoint(name, tuple(buffers)), caller


def _buffer(entry: str, declared: str, index: int) -> tuple[BufferParameter, str]:
    found = _QUALIFIED.match(declared)
    if found is None or found["mark"] is None or found["space"] not in {"device", "constant"}:
        raise PluginError(f"the entry point {entry} has a parameter that is no buffer and has no attribute: {declared}")
    pointer = found["mark"] == "*"
    kind = _constant(found) + found["type"]
    value = f"{'pointer' if pointer else 'reference'}_argument<{kind}>(buffers[{index}])"
    name = declared[found.end() :].strip()
    return BufferParameter(index, name, found["type"].removeprefix("metal::"), pointer), value


def _coordinate(declared: str, attribute: str) -> str:
    kind = declared.rsplit(None, 1)[0].removeprefix("metal::")
    other = 1 if "per" in attribute.split("_") else 0
    components = int(kind[-1]) if kind[-1].isdigit() else 1
    return f"{kind}({', '.join([ATTRIBUTES[attribute], *[str(other)] * (components - 1)])})"


def _shared(found: re.Match[str]) -> str:
    kind, name, lengths = found["type"], found["name"], found["lengths"].strip()
    made = "auto" if lengths else f"{kind}&"
    return (
        f"{found['lead']}static {kind} {name}_storage{lengths}; {made} {name} = metal_shim::share({name}_storage, "
        f'"{name}");'
    )


def _qualified(found: re.Match[str]) -> str:
    kind, mark, gap = _constant(found) + found["type"], found["mark"], found["gap"]
    if mark == "*" and found["space"] != "thread":
        return f"metal_shim::Pointer<{kind}>{gap}"
    if mark is None and found["space"] == "constant":
        return f"static {kind}{gap}"
    return f"{kind}{gap}{mark or ''}"


def _constant(found: re.Match[str]) -> str:
    constant = found["before"] or found["after"] or found["late"] or found["space"] == "constant"
    return "const " if constant else ""


def _enclosed(text: str, opening: int) -> str:
    """What stands between the parenthesis at ``opening`` and the one that closes it."""
    depth = 0
    for place in range(opening, len(text)):
        depth += {"(": 1, ")": -1}.get(text[place], 0)
        if depth == 0:
            return text[opening + 1 : place]
    raise PluginError("a parenthesis of an entry point is never closed")


def _split(parameters: str) -> Iterator[str]:
    """Parameters between commas that are not inside brackets."""
    depth, start = 0, 0
    for place, character in enumerate(parameters):
        depth += {"(": 1, "[": 1, "<": 1, ")": -1, "]": -1, ">": -1}.get(character, 0)
        if character == "," and depth == 0:
            yield parameters[start:place]
            start = place + 1
    if parameters[start:].strip():
        yield parameters[start:]
