"""From policy files to one checked :class:`~routerd.policy.model.Policy`: every problem in every file at once."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import msgspec

from routerd.errors import InvalidPolicy
from routerd.policy.analysis import find_idle_clauses
from routerd.policy.checker import Checker
from routerd.policy.facts import Vocabulary, parse_scalar
from routerd.policy.model import API_VERSION, KIND, ParamValue, Policy, canonical
from routerd.policy.sections import (
    read_admission,
    read_clauses,
    read_constraint,
    read_default,
    read_exploration,
    read_fallback,
    read_record,
    read_rule,
)
from routerd.policy.source import Entry, Items, Place, Problem, Problems, Table, Text, read_document
from routerd.types import Scalar

_SECTIONS = (
    "apiVersion", "kind", "metadata", "params", "constraints", "rules", "default", "fallback", "admission", "record",
    "exploration",
)  # fmt: skip


def load_policy(paths: Sequence[Path], vocabulary: Vocabulary, flags: Mapping[str, Scalar | None]) -> Policy:
    """Read, merge and check policy files.

    ``paths`` are files or directories (their ``*.yaml`` by name, sub-directories left alone), merged in that order:
    constraints and rules add up; ``params``, ``fallback``, ``admission``, ``record`` and ``exploration`` are overridden
    key by key and ``default`` as a whole by later files. ``flags`` holds every environment flag with its value, ``None`` if not set.

    Raises ``InvalidPolicy`` whose message has one line ``file:line:column: what is wrong`` for each problem, and whose
    ``detail["problems"]`` has the same as ``{file, line, column, message}``.
    """
    checker = Checker(vocabulary, flags)
    documents: list[Table] = []
    files = find_files(paths, checker.problems)
    for file in files:
        document = _read(file, checker)
        if document is None:
            checker.references.complete = False
        else:
            documents.append(document)
    _collect_params(documents, checker)
    policy = _assemble(files, documents, checker)
    if checker.problems.found:
        problems = _by_place(checker.problems.found, files)
        raise InvalidPolicy("\n".join(map(str, problems)), problems=msgspec.to_builtins(problems))
    return policy


def find_files(paths: Sequence[Path], problems: Problems) -> list[Path]:
    """The policy files that ``paths`` stand for, in the order in which they merge."""
    files: list[Path] = []
    for path in paths:
        try:
            found = _in_directory(path) if path.is_dir() else [path]
        except OSError as error:
            problems.add(Place(str(path), 1, 1), f"cannot be read: {error.strerror or error}")
            continue
        if not found:
            problems.add(Place(str(path), 1, 1), "the directory holds no policy file (*.yaml)")
        files += found
    if not paths:
        problems.add(Place("policy", 1, 1), "no policy file is configured; name at least one file or directory")
    return files


def _in_directory(directory: Path) -> list[Path]:
    names = sorted(child for child in directory.iterdir() if child.suffix == ".yaml" and not child.name.startswith("."))
    return [child for child in names if not child.is_dir()]


def _read(path: Path, checker: Checker) -> Table | None:
    """The document if it is a policy at all; otherwise looking further inside would only mislead."""
    document = read_document(path, checker.problems)
    if document is None:
        return None
    right = True
    for key, expected in (("apiVersion", API_VERSION), ("kind", KIND)):
        entry = document.entries.get(key)
        if entry is None:
            checker.problems.add(document.place, f"{key} is missing; a policy starts with '{key}: {expected}'")
        elif not isinstance(entry.value, Text) or entry.value.value != expected:
            given = entry.value.value if isinstance(entry.value, Text) else "a list or mapping"
            checker.problems.add(entry.value.place, f"{key} must be {expected}, not {given}")
            right = False
    checker.known_keys(document, _SECTIONS, "a policy")
    return document if right else None


def _sections(documents: Sequence[Table], name: str) -> list[Entry]:
    """That section of every file that has it and does not leave it empty."""
    found = [document.entries[name] for document in documents if name in document.entries]
    return [entry for entry in found if not (isinstance(entry.value, Text) and entry.value.is_null)]


def _collect_params(documents: Sequence[Table], checker: Checker) -> None:
    """Resolve parameters into ``checker.references``; a later file overrides an earlier one."""
    references = checker.references
    for entry in _sections(documents, "params"):
        table = checker.table(entry.value, "params")
        for name, param in table.entries.items() if table is not None else ():
            if not name.isidentifier():
                checker.problems.add(param.key_place, f"{name!r} cannot be a parameter; use letters, digits and _")
            references.params[name] = _param(name, param, checker)


def _param(name: str, entry: Entry, checker: Checker) -> Text | Items | None:
    nodes = entry.value.nodes if isinstance(entry.value, Items) else (entry.value,)
    values: list[Text] = []
    for node in nodes:
        resolved = checker.references.resolve(node, with_params=False)
        if resolved is None:
            return None
        if not isinstance(resolved, Text) or resolved.is_null:
            checker.problems.add(node.place, f"the parameter {name} must be a value or a list of values")
            return None
        values.append(resolved)
    if not isinstance(entry.value, Items):
        return values[0]
    # Members are resolved once more where the list is used: a $ that is left now was written $$ and must survive that.
    escaped = (replace(value, value=value.value.replace("$", "$$")) for value in values)
    return Items(entry.value.place, tuple(escaped))


def _assemble(files: Sequence[Path], documents: Sequence[Table], checker: Checker) -> Policy:
    ids: dict[str, Place] = {}
    constraints = read_clauses(_sections(documents, "constraints"), "constraints", read_constraint, ids, checker)
    rules = read_clauses(_sections(documents, "rules"), "rules", read_rule, ids, checker)
    default = read_default(_sections(documents, "default"), checker)
    fallback = read_fallback(_sections(documents, "fallback"), checker)
    admission = read_admission(_sections(documents, "admission"), checker)
    record = read_record(_sections(documents, "record"), checker)
    exploration = read_exploration(_sections(documents, "exploration"), checker)
    name = _name(documents, checker)
    references = checker.references
    for param in references.params.keys() - references.used_params:
        _warn_unused(param, documents, checker)
    if not checker.problems.found:
        find_idle_clauses(constraints, rules, checker.vocabulary, checker.warnings)
    policy = Policy(
        name=name,
        files=tuple(map(str, files)),
        params={key: _param_value(node) for key, node in sorted(references.params.items()) if node is not None},
        flags=dict(sorted(references.used_flags.items())),
        constraints=constraints,
        rules=rules,
        default=default,
        fallback=fallback,
        admission=admission,
        record=record,
        exploration=exploration,
        digest="",
        warnings=tuple(_by_place(checker.warnings.found, files)),
    )
    return msgspec.structs.replace(policy, digest=_digest(policy))


def _name(documents: Sequence[Table], checker: Checker) -> str:
    names: list[str] = []
    for entry in _sections(documents, "metadata"):
        table = checker.table(entry.value, "metadata")
        if table is None:
            continue
        checker.known_keys(table, ("name", "owner", "description"), "metadata")
        for key, value in table.entries.items():
            text = checker.text(value.value, f"metadata.{key}")
            if text is not None and key == "name":
                names.append(text.value)
    return "+".join(dict.fromkeys(names)) or "unnamed"


def _warn_unused(param: str, documents: Sequence[Table], checker: Checker) -> None:
    for entry in reversed(_sections(documents, "params")):
        if isinstance(entry.value, Table) and param in entry.value.entries:
            checker.warnings.add(entry.value.entries[param].key_place, f"the parameter {param} is never used")
            return


def _param_value(node: Text | Items) -> ParamValue:
    if isinstance(node, Items):
        return tuple(parse_scalar(item.value.replace("$$", "$")) for item in node.nodes if isinstance(item, Text))
    return parse_scalar(node.value)


def _digest(policy: Policy) -> str:
    content = {"policy": canonical(policy), "flags": policy.flags}
    return hashlib.sha256(msgspec.json.encode(content, order="sorted")).hexdigest()


def _by_place(problems: Iterable[Problem], files: Sequence[Path]) -> list[Problem]:
    order = {str(file): index for index, file in enumerate(files)}
    return sorted(problems, key=lambda problem: (order.get(problem.file, -1), problem.line, problem.column))
