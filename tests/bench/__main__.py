"""The command: `python -m tests.bench [--quick] [CASE …]`; see README.md."""

import argparse
import asyncio
import os
import platform
import resource
import sys
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from importlib import import_module
from pathlib import Path
from random import Random
from typing import Any

import orjson
import uvloop

from lifecycle import embedded, migrate
from lifecycle.settings import asyncpg_url
from tests.bench import contenders, data
from tests.bench.cases import Bench
from tests.bench.measure import Outcome, Spread, ratio
from tests.conftest import a_database

CASES = (
    *("page", "detail", "nested", "tiny"),
    *("ingest", "promote", "fan-out", "growth", "memory"),
)
SIZE, QUICK_SIZE = data.Size(runs=20_000, steps=10), data.Size(runs=5_000, steps=10)

_OPEN_FILES = 8_192


def _say(text: str) -> None:
    print(text, flush=True)  # noqa: T201


def main() -> int:
    """Measure, print, write JSON; 0 if everything holds that must."""
    parser = argparse.ArgumentParser(prog="make bench")
    parser.add_argument("cases", nargs="*", metavar="CASE", help=f"some of: {', '.join(CASES)}")
    parser.add_argument("--quick", action="store_true", help="smaller data, fewer rounds")
    given = parser.parse_args()
    if unknown := set(given.cases) - set(CASES):
        parser.error(f"no such case: {', '.join(sorted(unknown))}; there are {', '.join(CASES)}")
    contenders.WORK.mkdir(exist_ok=True)
    # Thousands of websockets, here and in the servers, which inherit it.
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, _OPEN_FILES), hard))
    url = os.environ.get("LIFECYCLE_TEST_DATABASE_URL")
    if url:
        return _on(asyncpg_url(url), given.cases or CASES, given.quick)
    with embedded.running(contenders.WORK) as url:
        return _on(url, given.cases or CASES, given.quick)


def _on(postgres_url: str, names: Sequence[str], quick: bool) -> int:
    cases = [import_module(f"tests.bench.cases.{name.replace('-', '_')}") for name in names]
    wanted = {contender for case in cases for contender in case.WANTED}
    size = QUICK_SIZE if quick else SIZE
    python = f"Python {platform.python_version()} ({Path(sys.executable).resolve()})"
    _say(f"{size.runs:,} runs, {size.points:,} points of metrics")
    _say(f"cores: {os.cpu_count()}, {python}")
    with a_database(postgres_url) as url, a_database(postgres_url) as mlflow_url:
        migrate.upgrade(url)
        asyncio.run(data.fill_lifecycle(url, size))
        with contenders.running(wanted, url, mlflow_url) as servers:
            if "mlflow" in servers:
                asyncio.run(data.fill_mlflow(mlflow_url, size))
            outcomes = []
            for case in cases:
                mine = {name: servers[name] for name in servers if name in case.WANTED}
                bench = Bench(mine, postgres_url, url, size, quick, Random())
                outcome = uvloop.run(case.run(bench))
                outcomes.append(outcome)
                _show(outcome)
    path = contenders.WORK / "result.json"
    report = _report(outcomes, size, postgres_url)
    path.write_bytes(orjson.dumps(report, option=orjson.OPT_INDENT_2))
    missed = [outcome.case for outcome in outcomes if not outcome.holds]
    _say(f"\nWritten: {path}")
    _say(f"Not reached: {', '.join(missed)}" if missed else "Everything holds that must.")
    return 1 if missed else 0


def _show(outcome: Outcome) -> None:
    _say(f"\n{outcome.case}, {outcome.unit}")
    for name, values in outcome.figures.items():
        spread = Spread.of(values)
        _say(f"  {name:34}{spread.median:>14,.1f}   ({spread.low:,.1f} to {spread.high:,.1f})")
    for name, value in outcome.notes.items():
        _say(f"  {name:34}{value:>14,.1f}")
    for bound in outcome.bounds:
        reached = ratio(outcome.figures[bound.of], outcome.figures[bound.to])
        must = f"{'at most' if bound.at_most else 'at least'} {bound.limit:g}"
        _say(
            f"  {bound.of} : {bound.to}".ljust(36)
            + f"{reached.median:>14.2f}   ({reached.low:.2f} to {reached.high:.2f})"
            + f"   must be {must}: {'yes' if bound.holds(outcome.figures) else 'NO'}"
        )


def _report(outcomes: Sequence[Outcome], size: data.Size, postgres_url: str) -> dict[str, Any]:
    """What is written: for whoever compares several runs."""
    return {
        "at": datetime.now(UTC),
        "machine": {
            "cores": os.cpu_count(),
            "load": os.getloadavg(),
            "system": platform.platform(),
        },
        "versions": contenders.versions(postgres_url),
        "data": asdict(size) | {"points": size.points},
        "cases": {
            outcome.case: {
                "unit": outcome.unit,
                "figures": {
                    name: asdict(Spread.of(values)) | {"rounds": values}
                    for name, values in outcome.figures.items()
                },
                "notes": outcome.notes,
                "ratios": [
                    asdict(bound)
                    | asdict(ratio(outcome.figures[bound.of], outcome.figures[bound.to]))
                    | {"holds": bound.holds(outcome.figures)}
                    for bound in outcome.bounds
                ],
            }
            for outcome in outcomes
        },
    }


if __name__ == "__main__":
    sys.exit(main())
