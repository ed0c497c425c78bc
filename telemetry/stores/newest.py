"""SQL subqueries for the newest rows of one battery, each answered by one probe of an index instead of a scan.

A row whose time is further ahead of the clock than `TWIN_MAX_FUTURE_S` comes from a wrong clock: it is left out until
its time has come, or it would hide every later row.  So is one from before 1970, which Python may not be able to hold.
"""

from __future__ import annotations

#: SQL expression: rows up to this time count.  A function of the store, because the view `latest_battery_status`
#: follows the same rule; its limit is that of the connection (`StoreConnection`), else of the database, else 300 s.
TIME_LIMIT = "twin_time_limit()"
#: SQL expression: rows from this time on count, as in the contract.
TIME_START = "timestamptz '1970-01-01 00:00:00+00'"
#: SQL expression: the end of the contract's times, for a time that may be ahead of the clock; beyond it, differences of
#: times may be out of the range of timestamps.
TIME_END = "timestamptz '2200-01-01 00:00:00+00'"


def newest_rows(
    table: str,
    condition: str,
    *,
    columns: str = "*",
    order: str = "time",
    rows: str = "1",
    battery: str = "b.battery_id",
) -> str:
    """Subquery for LATERAL: the newest `rows` of a battery in `table`, newest first.

    Args:
        condition: SQL condition on the row, whose alias is `n`.
        order: column that the index (battery_id, ..., `order`) ends with; a time is limited to `TIME_START` and
            `TIME_LIMIT`.
        battery: SQL expression of the id.
    """
    if order == "time":
        condition = f"n.time >= {TIME_START} AND n.time <= {TIME_LIMIT} AND {condition}"
    return (
        f"(SELECT {columns} FROM {table} n WHERE n.battery_id = {battery} AND {condition} "  # noqa: S608 - constant text
        f"ORDER BY n.{order} DESC LIMIT {rows})"
    )


def newest_reading(condition: str = "true", *, columns: str = "*", battery: str = "b.battery_id") -> str:
    """Subquery: the newest reading.  A row without voltage holds a prediction that arrived before its reading."""
    return newest_rows("ev_telemetry", f"n.voltage IS NOT NULL AND {condition}", columns=columns, battery=battery)


def newest_prediction(condition: str = "true", *, columns: str = "time", role: str = "'champion'") -> str:
    """Subquery: the newest prediction of `role`, an SQL expression, for battery `b`, of any target."""
    return newest_rows("battery_predictions", f"n.role = {role} AND {condition}", columns=columns)


def newest_outcome(target: str, *, columns: str = "*", role: str = "'champion'", battery: str = "b.battery_id") -> str:
    """Subquery: the newest prediction of a target with a ground truth; `target` and `role` are SQL expressions."""
    condition = f"n.target = {target} AND n.role = {role}"
    return newest_rows("prediction_outcomes", condition, columns=columns, battery=battery)


def newest_cycle(columns: str, battery: str = "b.battery_id", condition: str = "true") -> str:
    """Subquery: the cycle with the highest age."""
    return newest_rows("battery_cycles", condition, columns=columns, order="cycle_index", battery=battery)
