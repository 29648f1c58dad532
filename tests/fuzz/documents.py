"""Policy files, good and hostile: pieces of the language put together, and the shipped files with lines changed."""

from __future__ import annotations

from functools import cache

from hypothesis import strategies as st

from routerd.policy.facts import FACTS
from routerd.resources import shipped
from tests.fuzz.inputs import Bytes

HEAD = "apiVersion: routerd/v1\nkind: Policy\n"

_SCALARS = (
    "1", "0", "-1", "1e309", "-.inf", ".nan", "0x10", "0o7", "1_000", "true", "no", "~", "''", "\"\\0\"", "22:00", "1KiB",
    "1.5s", "80%", "101%", "99999999999999999999999", "1KiB7", "$p", "$$p", "${flags.NONE}", "${PARALLEL_THRESHOLD}", "${", "$",
    "cpu", "cpu.numpy", "linalg.gemm", "'*'", "'[['", "'*' ", "latency", "self", "*alias", "&anchor 1", "!!python/object:os.system x",
    "!!binary aGk=", "|\n  text", "2020-01-01", "<<", "{gte: 1}", "[1, 2]", "{between: [2, 1]}", "{in: []}", "{gt: {lt: 1}}",
    "é", "\u202e", "a" * 1200,
)  # fmt: skip
_OPERATORS = ("gt", "gte", "lt", "lte", "between", "in", "not_in", "is", "")
_SECTIONS = (
    "params",
    "constraints",
    "rules",
    "default",
    "fallback",
    "admission",
    "record",
    "exploration",
    "metadata",
    "other",
    "apiVersion",
)
_KEYS = (
    "id", "when", "prefer", "objective", "split", "unless_slower_than", "forbid", "allow", "require", "on_missing", "latency",
    "energy", "name", "on", "max_attempts", "max_queue_ms", "max_in_flight_per_client", "budget", "p", "decide", "reason", "",
)  # fmt: skip

_scalars = st.sampled_from(_SCALARS) | st.text(max_size=12).map(repr)
_keys = st.sampled_from(_KEYS) | st.sampled_from(sorted(FACTS)) | st.sampled_from(_OPERATORS)


def _flow(children: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    pairs = st.lists(st.builds("{}: {}".format, _keys, children), max_size=4)
    return st.one_of(
        st.lists(children, max_size=4).map(lambda items: f"[{', '.join(items)}]"),
        pairs.map(lambda items: f"{{{', '.join(items)}}}"),
    )


_values = st.recursive(_scalars, _flow, max_leaves=12)
_conditions = st.builds("{{{}: {}}}".format, st.sampled_from(sorted(FACTS)), _values)
_rules = st.builds("{{id: {}, when: {}, {}: {}}}".format, _scalars, _conditions, _keys, _values)
_sections = st.one_of(
    st.builds("{}: {}\n".format, st.sampled_from(_SECTIONS), _values),
    st.builds("{}:\n- {}\n- {}\n".format, st.sampled_from(("rules", "constraints")), _rules, _rules),
    st.builds("default: {{objective: {{latency: {}}}}}\n".format, _scalars),
)


@cache
def shipped_documents() -> tuple[bytes, ...]:
    """The policy files that come with the product."""
    return tuple(path.read_bytes() for path in sorted(shipped("policies").glob("*.yaml")))


@st.composite
def _edited(draw: st.DrawFn) -> bytes:
    """A shipped file with lines lost, repeated, moved or given another value."""
    lines = draw(st.sampled_from(shipped_documents())).decode().splitlines(keepends=True)
    for _ in range(draw(st.integers(1, 3))):
        place = draw(st.integers(0, len(lines) - 1))
        what = draw(st.sampled_from(("lose", "repeat", "indent", "value", "swap")))
        if what == "lose" and len(lines) > 1:
            del lines[place]
        elif what == "repeat":
            lines.insert(place, lines[place])
        elif what == "indent":
            lines[place] = draw(st.sampled_from(("  ", "\t", "- "))) + lines[place]
        elif what == "value":
            lines[place] = f"{lines[place].partition(':')[0].rstrip()}: {draw(_values)}\n"
        else:
            other = draw(st.integers(0, len(lines) - 1))
            lines[place], lines[other] = lines[other], lines[place]
    return "".join(lines).encode()


documents: Bytes = st.one_of(
    st.lists(_sections, max_size=5).map(lambda sections: (HEAD + "".join(sections)).encode()),
    _edited(),
    st.builds(
        lambda document, place, noise: document[: place % len(document)] + noise + document[place % len(document) :],
        _edited(),
        st.integers(0, 1 << 14),
        st.sampled_from([b"\xff", b"\0", b"\t", b"{", b"\xef\xbb\xbf", b"\n---\n", b"[" * 40, b"&a [*a, *a]", b"\r", b"? ", b"\xed\xa0\x80"]),
    ),
    st.binary(max_size=60),
    st.sampled_from([HEAD.encode() + b"rules: " + b"[" * 5000, HEAD.encode() + b"x: " + b"a" * 300_000, HEAD.encode() + b"params: {" + b"a: 1, " * 30_000 + b"}"]),
)  # fmt: skip
