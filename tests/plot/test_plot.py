"""Every figure draws on its own axes only and names what it shows, with units."""

import itertools
import re
import xml.etree.ElementTree as ElementTree

import pytest
from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.text import Text

import hbll_seq as hs
from hbll_seq.plot.growth import crossings

TEXT = "It is a truth <universally> acknowledged, that a single man in"


RECORDS = [
    *(dict(rule="hbll", T=t, seconds=1 + t / 1000, MiB=50 + t / 100) for t in (256, 1024, 4096)),
    *(dict(rule="bptt", T=t, seconds=t / 250, MiB=t / 10) for t in (256, 1024)),
    dict(rule="bptt", T=4096, seconds=float("nan"), MiB=None),  # out of memory
]

FIGURES = {
    "learning_curve": lambda run, found, ax: hs.plot.learning_curve(run, ax=ax, label="hbll"),
    "learning_curves": lambda run, found, ax: hs.plot.learning_curves({"hbll": [run, run], "other": [run]}, ax=ax),
    "training losses": lambda run, found, ax: hs.plot.learning_curves({"hbll": [run]}, held_out=False, ax=ax),
    "inconsistency": lambda run, found, ax: hs.plot.inconsistency(run, ax=ax),
    "gradient_cosine": lambda run, found, ax: hs.plot.gradient_cosine(run, ax=ax, label="hbll"),
    "history": lambda run, found, ax: run.plot(ax=ax),
    "tree": lambda run, found, ax: hs.plot.tree([1.0, 2.0, float("nan"), 0.5, 0.1], ax=ax, block_size=8),
    "knockout": lambda run, found, ax: hs.plot.credit(found["knockout"], row=1, ax=ax),
    "stacked": lambda run, found, ax: hs.plot.credit(found["knockout"], row=[0, 1], ax=ax),
    "posterior": lambda run, found, ax: hs.plot.credit(found["posterior"], text=TEXT, ax=ax),
    "gradient": lambda run, found, ax: hs.plot.credit(found["gradient"], log=False, per_second=8000.0, ax=ax),
    "depth": lambda run, found, ax: hs.plot.credit(found["depth"], ax=ax),
    "lag_map": lambda run, found, ax: hs.plot.lag_map(found["lag"], ax=ax),
    "schedule": lambda run, found, ax: hs.plot.schedule(100, 16, ax=ax),
    "one block": lambda run, found, ax: hs.plot.schedule(10, 16, ax=ax),
    "paths": lambda run, found, ax: hs.plot.paths(found["paths"], ax=ax),
    "flops": lambda run, found, ax: hs.plot.paths(found["paths"], over="flops", ax=ax),
    "text": lambda run, found, ax: hs.plot.credit_text(found["knockout"], TEXT, ax=ax),
    "scaling": lambda run, found, ax: hs.plot.scaling(RECORDS, ax=ax),
    "memory": lambda run, found, ax: hs.plot.scaling(RECORDS, what="MiB", ax=ax),
}


@pytest.mark.parametrize("name", list(FIGURES))
def test_figures_draw_on_the_axes_given_and_name_their_units(name, short_run, attributions):
    figure = Figure()
    ax = figure.subplots()
    assert FIGURES[name](short_run, attributions, ax) is ax
    assert name == "text" or (ax.get_xlabel() and (ax.get_ylabel() or ax.get_yticklabels()))
    figure.canvas.draw()


@pytest.mark.parametrize("name", list(FIGURES))
@pytest.mark.parametrize("size", [(3.3, 2.4), (6.4, 4.0)], ids=["paper", "notebook"])
def test_figures_fit_a_column_of_a_paper(name, size, short_run, attributions):
    figure = Figure(figsize=size, layout="constrained")
    ax = FIGURES[name](short_run, attributions, figure.subplots())
    figure.draw_without_rendering()  # twice, as `savefig` does: the layout needs the labels that it makes
    figure.canvas.draw()
    box = figure.get_tightbbox()
    assert box.x0 > -0.02 and box.y0 > -0.02 and box.x1 < size[0] + 0.02 and box.y1 < size[1] + 0.02, "cut off"
    said = [t for t in figure.findobj(Text) if t.get_text() and t.get_visible()]
    assert min(t.get_fontsize() for t in said) >= 6
    for one in figure.axes:  # ticks are apart
        for axis in (one.xaxis, one.yaxis):
            low, high = sorted(axis.get_view_interval())
            ticks = [t for t in axis.get_major_ticks() if low <= t.get_loc() <= high and t.label1.get_text()]
            boxes = [t.label2 if t.label2.get_visible() else t.label1 for t in ticks]
            boxes = [b.get_window_extent() for b in boxes]
            assert not any(a.overlaps(b) for a, b in itertools.combinations(boxes, 2)), (one, axis.axis_name)
    assert ax.figure is figure


def test_small_axes_leave_the_letters_of_others_alone(short_run):
    figure = Figure(figsize=(6.4, 4.0))
    wide, narrow = figure.subplots(1, 2, width_ratios=[4, 1])
    hs.plot.learning_curve(short_run, ax=narrow)
    hs.plot.learning_curve(short_run, ax=wide)
    hs.plot.learning_curve(short_run, ax=narrow)  # drawn on twice: not smaller twice
    assert wide.xaxis.label.get_fontsize() == 10 and narrow.xaxis.label.get_fontsize() == 6.5
    with rc_context({"font.size": 5}):  # whoever wants it smaller still
        assert hs.plot.inconsistency(short_run, ax=Figure(figsize=(3, 2)).subplots()).xaxis.label.get_fontsize() == 5


def test_the_text_figure_has_every_character_on_its_blocks_colour(attributions):
    figure = Figure()
    ax = hs.plot.credit_text(attributions["knockout"], TEXT, width=20, ax=figure.subplots())
    assert "".join(t.get_text() or " " for t in ax.texts) == TEXT[:49]
    colours, frame = [p.get_facecolor() for p in ax.patches[:-1]], ax.patches[-1]
    assert (frame.get_x(), frame.get_y()) == (48 % 20, pytest.approx(48 // 20 + 0.04)) and frame.get_facecolor()[3] == 0
    assert f"{float(attributions['knockout'].loss[0]):.3g} nats" in ax.get_title() and "step 48" in ax.get_title()
    assert all(len(set(colours[i : i + 8])) == 1 for i in range(0, 49, 8)) and len(set(colours)) > 3
    figure.canvas.draw()


def test_the_tree_of_credit_has_a_box_a_node(attributions):
    ax = hs.plot.credit(attributions["posterior"], ax=Figure().subplots())
    assert len(ax.patches) == 7 + 4 + 2 + 1
    assert ax.get_yticklabels()[-1].get_text() == "all 7"


def test_colours_have_a_floor_and_stacked_trees_share_them(attributions):
    found = attributions["knockout"]
    small = found._replace(nodes=tuple(1e-5 * v for v in found.nodes))
    pale = [p.get_facecolor() for p in hs.plot.credit(small, ax=Figure().subplots()).patches]
    assert all(min(c[:3]) > 0.9 for c in pale), "nothing matters: nearly white"
    first = [v.clone() for v in found.nodes]
    for v in first:
        v[1] *= 100.0
    ax = hs.plot.credit(found._replace(nodes=tuple(first)), row=[0, 1], ax=Figure().subplots())
    alone = [p.get_facecolor() for p in hs.plot.credit(found, ax=Figure().subplots()).patches]
    both = [p.get_facecolor() for p in ax.patches]
    assert len(both) == 28 and both[:14] != alone  # on the second one's scale
    top = float(max(v.abs().max() for v in first))
    same = [p.get_facecolor() for p in hs.plot.credit(found, top=top, ax=Figure().subplots()).patches]
    assert both[:14] == same
    assert [t.get_text()[:10] for t in ax.texts] == ["sequence 0", "sequence 1"]
    ends = [line.get_xdata()[0] for line in ax.lines]
    assert ends == [48.5, 48.5], "the outcome is marked"


def test_hover_views_are_well_formed_and_say_the_numbers(attributions):
    result = attributions["knockout"]
    page = hs.plot.credit_html(result, TEXT)
    root = ElementTree.fromstring(page.replace("&nbsp;", " "))
    assert page._repr_html_() == page and "".join(root[0].itertext()) == TEXT[:49]
    assert f"{result.block[0, 3]:.4g} nats" in page
    tree = hs.plot.tree_html(result, text=TEXT, row=1)
    root = ElementTree.fromstring(tree.replace("&nbsp;", " "))
    titles = [e.text for e in root.iter() if e.tag.endswith("title")]
    assert len(titles) == 15 and titles[13].startswith("steps 0 to 48: ")
    assert titles[14] == f"outcome at step 48: loss {float(result.loss[1]):.3g} nats" and titles[14] in tree
    assert "".join(e.text for e in root.iter() if e.tag == "b") == "" and '<b style="outline' in page
    assert not re.search(r"<script|https?://(?!www\.w3\.org)", tree + page)


def test_curves_cross_where_they_do():
    one, other = [(100.0, 1.0), (400.0, 1.0)], [(100.0, 0.5), (400.0, 2.0)]
    ((t, v),) = crossings(one, other)
    assert t == pytest.approx(200) and v == pytest.approx(1)
    assert crossings(one, [(100.0, 0.5), (400.0, 0.9)]) == []


def test_the_tree_figure_shows_means_over_nodes():
    ax = hs.plot.tree([1.0, 3.0, 5.0, 7.0], ax=Figure().subplots())
    assert [t.get_text() for t in ax.texts] == ["1.00", "3.00", "5.00", "7.00", "2.00", "6.00", "4.00"]


@pytest.mark.parametrize(
    "call,says",
    [
        (lambda run, found: hs.plot.tree([]), "values"),
        (lambda run, found: hs.plot.credit(found["knockout"], row=2), "row: got 2"),
        (lambda run, found: hs.plot.credit(found["knockout"], row=[]), "row: got none"),
        (lambda run, found: hs.plot.credit(found["knockout"], top=0), "top: got 0"),
        (lambda run, found: hs.plot.credit_text(found["knockout"], "short"), "text: got 5 characters"),
        (lambda run, found: hs.plot.credit_html(found["knockout"], "short"), "text: got 5 characters"),
        (lambda run, found: hs.plot.learning_curves({}), "runs"),
        (lambda run, found: hs.plot.paths([]), "costs"),
        (lambda run, found: hs.plot.paths(found["paths"], over="money"), "over: got 'money'"),
        (lambda run, found: hs.plot.scaling([]), "records"),
        (lambda run, found: hs.plot.scaling(RECORDS, what="joules"), "what: got 'joules'"),
        (lambda run, found: hs.plot.inconsistency(hs.History(None, {"rule": "bptt"}, {})), "history: got a run"),
        (lambda run, found: hs.plot.gradient_cosine(hs.History(None, {}, {})), "history: got a run without"),
    ],
)
def test_bad_arguments_are_named(call, says, short_run, attributions):
    with pytest.raises(hs.InputError, match=says):
        call(short_run, attributions)
