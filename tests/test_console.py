"""What the terminal shows of the user's names, paths and commands: every character of them."""

from asr.console import console, print_facts, print_plan, print_results, print_whereabouts
from asr.metrics import ErrorRates, score

NAME = "data.train=[train-clean-100] [bold]a[/bold] [/b] :smile:"


def test_brackets_are_shown_as_brackets(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(console, "width", 400)
    console.print(NAME, soft_wrap=True)
    print_plan(NAME, [], {})
    print_facts({"results": NAME, NAME: "results"})
    print_whereabouts(tmp_path / NAME, NAME)
    print_results(NAME, {NAME: ErrorRates.of([score("a", "b", "b")])})
    assert capsys.readouterr().out.count(NAME) == 8
