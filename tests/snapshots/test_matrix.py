"""The table of docs/snapshots.md, which `make matrix-snapshots` writes."""

from __future__ import annotations

from tests.snapshots.matrix import BEGIN, END, PAGE, Row, all_rows, written

TABLE = "| What is open or running | Right answers | Restored |\n| --- | --- | --- |\n"
OLD = "| a | 3 of 3 | 2 of 2 |\n", "| b | 3 of 3 | none, and the log says why |\n", "| gone | 3 of 3 | 2 of 2 |\n"


NOT_YET = "| {} | not shown yet | not shown yet |\n"


def ran(what: str, *, saved: bool = True, **more: object) -> Row:
    return Row(what.upper(), what, "", saved, rounds=6, right=6, restored=5 if saved else 0, **more)  # type: ignore[arg-type]


def test_what_ran_gets_its_line_anew_and_the_rest_stays() -> None:
    page = "Before\n" + BEGIN + TABLE + "".join(OLD) + END + "After\n"
    rows = [ran("new"), Row("A", "a", "", True), ran("b", saved=False), Row("Never", "never", "", True)]
    lines = (
        "| new | 6 of 6 | 5 of 5 |\n"
        + OLD[0]
        + "| b | 6 of 6 | none, and the log says why |\n"
        + NOT_YET.format("never")
    )
    assert written(page, rows) == "Before\n" + BEGIN + TABLE + lines + END + "After\n"


def test_a_case_that_failed_keeps_its_line_or_is_not_shown_yet() -> None:
    page = BEGIN + TABLE + "".join(OLD) + END
    rows = [ran("a", faults=["wrong"]), ran("new", faults=["wrong"])]
    assert written(page, rows) == BEGIN + TABLE + OLD[0] + NOT_YET.format("new") + END


def test_the_page_has_every_case() -> None:
    rows = [row for rows in all_rows().values() for row in rows]
    shown = PAGE.read_text().partition(BEGIN)[2].partition(END)[0].removeprefix(TABLE).splitlines()
    assert [line.split(" | ")[0].removeprefix("| ") for line in shown] == [row.what for row in rows]
    assert len({row.what for row in rows}) == len(rows)
