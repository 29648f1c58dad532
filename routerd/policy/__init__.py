"""Policies as code: which backends may take a task, and how to rank those, kept as YAML in version control.

:func:`load_policy` reads and checks files, :func:`compile_policy` turns the result into closures that judge a task in
about a microsecond and can say why.
"""

from routerd.policy.evaluate import CompiledPolicy, Verdict, compile_policy
from routerd.policy.facts import FACTS, Facts, Vocabulary, time_facts
from routerd.policy.loader import load_policy
from routerd.policy.model import Policy
from routerd.policy.report import render_policy, render_problems, render_trace
from routerd.policy.source import Problem
from routerd.policy.trace import ClauseTrace, ConditionTrace, Trace

__all__ = [
    "FACTS",
    "ClauseTrace",
    "CompiledPolicy",
    "ConditionTrace",
    "Facts",
    "Policy",
    "Problem",
    "Trace",
    "Verdict",
    "Vocabulary",
    "compile_policy",
    "load_policy",
    "render_policy",
    "render_problems",
    "render_trace",
    "time_facts",
]
