"""What pledged positions are worth after haircuts, account by account."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from routerd.errors import InvalidArray
from routerd.interfaces import (
    Array,
    Arrays,
    Dims,
    Example,
    Groups,
    HostArrays,
    Join,
    Namespace,
    Parameter,
    Params,
    Workload,
)
from routerd.workloads.splitting import split_along

if TYPE_CHECKING:
    import numpy as np

_NAME = "collateral.haircut"
_POSITIONS_PER_ACCOUNT = 50
_INPUTS = ("quantity", "price", "haircut", "fx", "account")


def _haircut(namespace: Namespace, params: Params, arrays: Arrays) -> Arrays:
    accounts = params["num_accounts"]
    # Every block adds a value to each account, so a block has several positions for each.
    step = max(namespace.block, 4 * accounts)
    positions = arrays["account"].shape[0]
    collateral, market = namespace.zeros((accounts,)), namespace.zeros((accounts,))
    for start in range(0, positions, step):
        quantity, price, haircut, fx, account = (arrays[name][start : start + step] for name in _INPUTS)
        value = quantity * price
        value *= fx
        kept = 1.0 - haircut
        kept *= value
        collateral = collateral + namespace.sum_by(kept, account, accounts)
        market = market + namespace.sum_by(value, account, accounts)
    return {"collateral_value": collateral, "market_value": market}


def _check_accounts(params: Params, arrays: HostArrays) -> None:
    account, accounts = arrays["account"], params["num_accounts"]
    if account.max() >= accounts:
        position = int((account >= accounts).argmax())
        raise InvalidArray(
            f"{_NAME}: account[{position}] is {account[position]}, but num_accounts is {accounts}; "
            f"accounts count from 0 to num_accounts − 1",
            array="account",
        )


def _added(whole: Example, parts: Sequence[HostArrays]) -> dict[str, Any]:
    """Every part holds all accounts with the values of its own positions."""
    del whole
    return {name: sum(part[name] for part in parts) for name in parts[0]}


def _positions_and_accounts(params: Params, dims: Dims) -> float:
    """A position is read, valued and added twice; an account is a value in each of two results."""
    return float(dims["P"] + params["num_accounts"])


def _haircut_example(work: float, rng: np.random.Generator) -> Example:
    """Long positions in stocks and bonds of four currencies, about fifty an account."""
    import numpy as np

    positions = max(1, round(work * _POSITIONS_PER_ACCOUNT / (_POSITIONS_PER_ACCOUNT + 1)))
    accounts = max(1, positions // _POSITIONS_PER_ACCOUNT)
    return Example(
        {"num_accounts": accounts},
        {
            "quantity": np.round(rng.lognormal(5.0, 1.0, positions)),
            "price": np.round(rng.lognormal(4.0, 0.6, positions), 2),
            "haircut": rng.choice([0.0, 0.005, 0.02, 0.04, 0.08, 0.15, 0.25, 0.5], positions),
            "fx": rng.choice([1.0, 1.08, 1.27, 0.0067], positions),
            "account": rng.integers(0, accounts, positions),
        },
    )


HAIRCUT = Workload(
    name=_NAME,
    summary="Value of pledged positions after haircuts, for each account: Σ quantity·price·(1 − haircut)·fx.",
    source="Basel Committee on Banking Supervision, CRE22, Standardised approach: credit risk mitigation",
    engines=("Collateral",),
    parameters=(
        Parameter(
            name="num_accounts",
            type="int",
            minimum=1,
            maximum=10_000_000,
            doc="how many accounts there are; those without a position are worth 0",
        ),
    ),
    inputs=(
        Array(
            name="quantity",
            shape=("P",),
            unit="units",
            doc="units pledged; a negative quantity takes its value away, at the same haircut",
        ),
        Array(name="price", shape=("P",), unit="currency of the position per unit", doc="price of a unit"),
        Array(
            name="haircut",
            shape=("P",),
            unit="1",
            minimum=0.0,
            maximum=1.0,
            doc="share of the value that does not count (0.02 is 2 %)",
        ),
        Array(
            name="fx",
            shape=("P",),
            unit="currency of the account per currency of the position",
            minimum=0.0,
            above_minimum=True,
            doc="exchange rate; 1 where the two currencies are one",
        ),
        Array(
            name="account",
            shape=("P",),
            dtype="int64",
            accepts=("int64", "int32"),
            minimum=0,
            doc="account that each position belongs to, 0…num_accounts − 1",
        ),
    ),
    outputs=(
        Array(
            name="collateral_value",
            shape=("accounts",),
            unit="currency of the account",
            doc="value after haircuts; accounts = num_accounts",
        ),
        Array(
            name="market_value",
            shape=("accounts",),
            unit="currency of the account",
            doc="value before haircuts",
        ),
    ),
    kernel=_haircut,
    work=_positions_and_accounts,
    work_unit="positions and accounts",
    example=_haircut_example,
    work_range=(1e2, 5e6),
    tolerance=1e-6,
    batch_dim="P",
    needs=frozenset({"scatter"}),
    check=_check_accounts,
    split=split_along(dict.fromkeys(_INPUTS, 0)),
    merge=_added,
    join=Join(
        inputs=dict.fromkeys(_INPUTS, 0),
        outputs={"collateral_value": 0, "market_value": 0},
        groups=Groups("account", "num_accounts"),
    ),
)
