"""Records of results, the page made from them, and that the README's figures are on record or known not to be."""

import json
import pathlib
import re

import pytest

from benchmarks import report, results

ROOT = pathlib.Path(__file__).parents[2]
README = json.loads((results.FOLDER / "readme.json").read_text("utf-8"))
# figures of the README without a record, on 2026-11-29; run one again with fresh seeds and lower this. Never raise it.
AT_MOST = 0
# numbers in the README's prose that are no results: sizes of the runs, versions, years
SETTINGS = {
    "1", "2", "3", "8", "64", "128", "200", "256", "512", "800", "1,000", "2,400", "4,096", "65,536", "2606.21497", "3.11",
    "1.4",
}  # fmt: skip


def plain(text):
    return re.sub(r"\s+", " ", text)


def numbers(text):
    return re.findall(r"(?<![\w.])\d[\d,]*\d(?:\.\d+)?|(?<![\w.,])\d(?:\.\d+)?", text)


def as_told(full, number):
    """Whether a number of a note, rounded to the digits of the README's, is that one."""
    if len(full.partition(".")[2]) < (digits := len(number.partition(".")[2])):
        return False
    return round(float(full.replace(",", "")), digits) == float(number.replace(",", ""))


def test_the_page_is_made_from_the_records():
    assert report.stale() == [], "python -m benchmarks.report"


def test_every_figure_of_the_readme_is_on_record_or_known_not_to_be():
    text = re.sub(r"^ *```.*?^ *```", "", (ROOT / "README.md").read_text("utf-8"), flags=re.S | re.M)
    text = plain(re.sub(r"\]\([^)]*\)", "]", text))
    for snippet, *_ in README["records"] + README["not_yet_run_again"]:
        assert snippet in text, f"{snippet!r} is no longer in the README: take it off the list"
        text = text.replace(snippet, "")
    text = re.sub(r"`[^`]*`", "", text)
    unknown = [number for number in numbers(text) if number not in SETTINGS]
    assert not unknown, f"{unknown}: run them with fresh seeds and name the records in benchmarks/results/readme.json"


def test_the_list_of_figures_without_records_only_shrinks():
    assert len(README["not_yet_run_again"]) <= AT_MOST
    for snippet, note in README["not_yet_run_again"]:
        held = plain((ROOT / note).read_text("utf-8"))
        for number in numbers(re.sub(r"`[^`]*`", "", snippet)):
            assert any(as_told(one, number) for one in numbers(held)), f"{number} of {snippet!r} is not in {note}"


def test_figures_of_the_readme_are_means_of_records():
    """`[snippet, benchmark, task, rules, figure, factor]`: the snippet's numbers are means times the factor, rule by rule."""
    for snippet, benchmark, task, rules, figure, factor in README["records"]:
        told = numbers(re.sub(r"`[^`]*`", "", snippet))
        assert len(told) == len(rules), f"{snippet!r} has {told}, expected a number for each of {rules}"
        for rule, number in zip(rules, told, strict=True):
            records = [one for one in results.read(benchmark, task=task, rule=rule) if figure in one["figures"]]
            assert min(one["seed"] for one in records) >= 100, (
                f"{benchmark}, {task}, {rule}: choices were made on a seed"
            )
            found = factor * report.mean(records, figure)
            digits = len(number.partition(".")[2])
            assert f"{found:,.{digits}f}" == number, f"{snippet!r}: {rule} {found}"


def record(**changes):
    return {
        "benchmark": "trial", "task": "S5", "rule": "hbll", "seed": 100, "options": {"cell": "gru"},
        "figures": {"loss": 0.5, "seconds": 10.0}, **changes,
    }  # fmt: skip


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(results, "FOLDER", tmp_path)
    monkeypatch.setattr(report, "FOLDER", tmp_path)
    return tmp_path


def test_records_come_back_with_machine_and_commit(folder):
    whole = results.append(record())
    assert set(whole) - set(record()) == set(results.ADDED) and set(whole["machine"]) >= {"cpu", "vectors", "torch"}
    assert results.read("trial") == [whole] == results.read(seed=100) and not results.read(seed=101)
    assert results.done("trial", rule="hbll", seed=100) and not results.done("trial", rule="bptt")


@pytest.mark.parametrize(
    "changes, said",
    [
        ({"figures": {"loss": float("nan")}}, "loss=nan"),
        ({"figures": {"solved": True}}, "solved=True"),
        ({"seed": "100"}, "seed: got '100'"),
        ({"benchmark": "a/b"}, "stem of a file"),
        ({"note": "x"}, "unknown fields"),
    ],
)
def test_records_that_the_page_cannot_read_are_refused(folder, changes, said):
    with pytest.raises(ValueError, match=re.escape(said)):
        results.append(record(**changes))
    assert not list(folder.iterdir())


def test_a_table_has_all_seeds_equal_time_and_the_best(folder):
    curve = [{"step": 1, "seconds": 4.0, "loss": 0.9}, {"step": 2, "seconds": 11.0, "loss": 0.4}]
    for changes in (
        {"curve": curve, "figures": {"loss": 0.4, "seconds": 11.0, "chain_gap": 2e-7}},
        {"seed": 101, "curve": curve, "figures": {"loss": 0.6, "seconds": 11.0, "chain_gap": 1e-7}},
        {"rule": "torch", "figures": {"loss": 0.45, "seconds": 5.0}},
    ):
        results.append(record(**changes))
    spec = {"figure": "loss", "better": "lower", "digits": 2}
    head, _, ours, theirs, _, machine = report.table("trial", spec).splitlines()
    assert "| S5 | `hbll` | 100, 101 | 0.50 (0.40..0.60) | 0.90 at 5 s | 11 | 2e-07 |" == ours
    assert (
        "| S5 | `torch` | 100 | **0.45** |  | 5 |  |" == theirs
        and "ms an update" not in head
        and head.count("|") == ours.count("|")
    )
    assert machine.startswith("Machine: ") and results.machine()["torch"] in machine
    assert report.behind([("trial", spec)]) == "- S5, loss: `torch` 0.45, `hbll` 0.50."
    assert report.behind([("trial", {**spec, "better": "higher"})]) == "- In no row on record yet."


def test_options_that_differ_make_rows_and_the_later_of_two_equal_runs_counts(folder):
    results.append(record(figures={"loss": 9.0}))
    results.append(record())
    results.append(record(options={"cell": "lstm"}))
    groups = report.chosen("trial", {"figure": "loss"})
    assert [rule for _, rule in groups] == ["hbll (gru)", "hbll (lstm)"]
    assert report.mean(groups["S5", "hbll (gru)"], "loss") == 0.5
    assert not report.chosen("trial", {"figure": "loss", "rules": ["bptt"]})


def test_sections_stand_in_the_order_of_the_frame_and_then_of_the_alphabet(folder):
    for name in ("a", "b", "c"):
        results.append(record(benchmark=name))
        (folder / f"{name}.md").write_text(f"## Of {name}\n")
    (folder / "page.md").write_text('# Page\n\n{"sections": ["c"]}\n\n{"earlier": true}\n')
    (folder / "earlier.md").write_text("notes\n")
    assert report.page() == ("# Page\n\n## Of c\n\n## Of a\n\n## Of b\n\nnotes\n", {})


def test_records_without_a_text_are_an_error(folder):
    results.append(record())
    (folder / "page.md").write_text('{"sections": []}\n')
    with pytest.raises(FileNotFoundError, match="records of trial"):
        report.page()


def test_a_picture_is_stamped_with_what_it_shows(folder):
    results.append(record())
    spec = {"figure": "loss"}
    groups = report.chosen("trial", spec)
    report.draw(groups, spec, folder / "a.png")
    assert report.stamped(folder / "a.png") == report.stamp(groups, spec) != report.stamp(groups, {**spec, "x": 1})
