"""What the person at the terminal sees."""

from datetime import datetime
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.padding import Padding
from rich.panel import Panel
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.syntax import Syntax
from rich.table import Table

from lifecycle.demo.client import Object
from lifecycle.demo.drift import ACTION_THRESHOLD, FeatureDrift


class Screen:
    """Prints the story as it happens. Text that came from the service is never taken as markup."""

    def __init__(self) -> None:
        self._console = Console(highlight=False)
        self._steps = 0

    def step(self, title: str) -> None:
        self._steps += 1
        self._console.print(f"\n[bold cyan]{self._steps}. {escape(title)}[/]")

    def say(self, text: str) -> None:
        self._indented(escape(text))

    def epochs(self) -> Progress:
        """Return progress bars for training; a task has the fields `accuracy` and `recall`."""
        return Progress(
            TextColumn("   {task.description:<22}"),
            BarColumn(bar_width=20),
            MofNCompleteColumn(),
            TextColumn("accuracy {task.fields[accuracy]:.3f}  recall {task.fields[recall]:.3f}"),
            TimeElapsedColumn(),
            console=self._console,
        )

    def comparison(self, comparison: Object) -> None:
        """Show what `compareModelVersions` answered: a row for each version, best figures green."""
        table = _table("version", "run")
        for metric in comparison["metrics"]:
            title = metric["key"].replace("_", " ")  # so that a long one can be broken
            table.add_column(escape(title), justify="right")
        for position, version in enumerate(comparison["versions"]):
            figures = [
                _figure(metric["values"][position], best=version["version"] == metric["best"])
                for metric in comparison["metrics"]
            ]
            run = version["run"]["name"]
            table.add_row(f"  {escape(version['version'])}", escape(run), *figures)
        self._console.print(table)
        differing = [param["key"] for param in comparison["params"] if param["differs"]]
        self.say(f"They differ in {', '.join(differing)}.")

    def event(self, event: Object) -> None:
        """Show one item of the `deploymentStatus` subscription."""
        time = datetime.fromisoformat(event["at"]).astimezone().strftime("%H:%M:%S")
        before, after = event["from"], event["to"]
        change = after if before in (None, after) else f"{before} → {after}"
        colour = {"HEALTHY": "green", "DEGRADED": "yellow", "UNHEALTHY": "red"}.get(event["health"])
        health = f"[{colour}]{event['health'].lower()}[/]  " if colour else ""
        self._indented(
            f"[magenta]live[/] {time}  version {escape(event['deployment']['version'])}  "
            f"{change}  {health}"
            f"[dim]{escape(event['actor'])}: {escape(event['message'] or '-')}[/]"
        )

    def link(self, name: str, url: str) -> None:
        """Show where something is, in one line, so that it can be copied or clicked."""
        text = f"   {escape(name)}: [link={url}]{escape(url)}[/]"
        self._console.print(text, soft_wrap=True)

    def live(self, at: str, text: str) -> None:
        """Show what has just come in."""
        time = datetime.fromisoformat(at).astimezone().strftime("%H:%M:%S")
        self._indented(f"[magenta]live[/] {time}  {escape(text)}")

    def unmet(self, checks: list[Object]) -> None:
        """Show what `whyNot` answered: what is there, what is required, what to do about it."""
        table = _table("unmet", "observed", "required")
        for check in checks:
            row = (f"  {check['name']}", _plain(check["observed"]), _plain(check["required"]))
            table.add_row(*map(escape, row))
        self._console.print(table)
        self.say("To do: " + " ".join(check["advice"] for check in checks if check["advice"]))

    def drifts(self, drifts: list[FeatureDrift]) -> None:
        """Show features, the worst first."""
        table = _table("feature")
        for title in ("PSI", "by chance", "KS", "p", "mean before", "mean now"):
            table.add_column(title, justify="right")
        for drift in drifts:
            table.add_row(
                f"  {escape(drift.feature)}",
                f"[red]{drift.psi:.2f}[/]" if drift.psi >= ACTION_THRESHOLD else f"{drift.psi:.2f}",
                f"{drift.psi_by_chance:.2f}",
                f"{drift.ks_statistic:.2f}",
                f"{drift.ks_p_value:.0e}",
                f"{drift.baseline_mean:.4g}",
                f"{drift.observed_mean:.4g}",
            )
        self._console.print(table)

    def summary(self, facts: dict[str, str]) -> None:
        table = Table.grid(padding=(0, 2))
        table.add_column(style="bold", no_wrap=True)
        table.add_column(overflow="fold")
        for name, fact in facts.items():
            table.add_row(name, escape(fact))
        self._console.print()
        self._console.print(Panel(table, title="What there is now", border_style="cyan"))

    def queries(self, url: str, queries: dict[str, str]) -> None:
        """Show what to try next, without a frame: it is there to be copied."""
        self._console.print(f"\n[bold]To try next in GraphiQL:[/] [link={url}]{escape(url)}[/]")
        for title, query in queries.items():
            self._console.print(f"\n[dim]# {escape(title)}[/]")
            self._console.print(
                Syntax(query.strip(), "graphql", theme="ansi_dark", background_color="default")
                if self._console.is_terminal
                else escape(query.strip()),
                soft_wrap=True,
            )

    def _indented(self, markup: str) -> None:
        self._console.print(Padding(markup, (0, 0, 0, 3), expand=False))


def _table(first: str, *others: str) -> Table:
    """Return an empty table, as far indented as the text is, with columns for names."""
    table = Table(box=None, padding=(0, 1), header_style="bold")
    for title in (f"  {first}", *others):
        table.add_column(title, no_wrap=True)
    return table


def _plain(value: Any) -> str:
    """Return JSON in a few words; what is null, false or a list is left to the sentence."""
    if not isinstance(value, dict):
        return str(value)
    return ", ".join(
        key if each is True else f"{key} {each}"
        for key, each in value.items()
        if each is not None and each is not False and not isinstance(each, list)
    )


def _figure(value: float | None, *, best: bool) -> str:
    if value is None:
        return "-"
    return f"[bold green]{value:.3f}[/]" if best else f"{value:.3f}"
