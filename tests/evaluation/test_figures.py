import itertools
from functools import cache

import numpy as np
import pytest
from matplotlib.colors import to_hex

from loragen.bases.scores import Scores
from loragen.evaluation.cells import ALL, Cell
from loragen.evaluation.config import BASE, INSTRUCTED, MULTITASK, ORACLE, EvaluateConfig
from loragen.evaluation.figures import evaluation_figures, evaluation_plots
from loragen.evaluation.report_model import EvaluatedTask, MapPoint, Report
from loragen.evaluation.statistics import Interval
from loragen.evaluation.summary import MAIN, Summary, SummaryRow
from loragen.plotting import COLOURS, short_name, write_figure

NEAR = {
    "clinc_work": "intent",
    "clinc_home": "intent",
    "banking77_top_ups": "intent",
    "hwu_going_out": "intent",
    "review_books": "sentiment",
    "review_electronics": "sentiment",
    "crisis_info_fires": "topic",
    "crisis_sandy_hurricane": "topic",
    "tweet_stance_climate": "stance",
    "newsgroup_leisure": "topic",
    "dev_sentiment_github_comment": "sentiment",
    "sentence_imdb": "sentiment",
}
FAR = {
    "news_topic": "topic",
    "atis_flights": "intent",
    "subjectivity": "other",
    "question_answer_type": "question-type",
    "question_answer_type_fine": "question-type",
    "gadget_review_sentence": "sentiment",
    "tweet_hate_or_offensive": "toxicity",
    "programming_question_tag": "topic",
    "airline_tweet_sentiment": "sentiment",
    "airline_complaint_reason": "topic",
    "hotel_review_sentiment": "sentiment",
    "hotel_review_fake": "other",
    "email_request": "intent",
    "headline_clickbait": "other",
    "movie_snippet_polarity": "sentiment",
}
FEW = {"test": {"hwu_going_out": "intent"}}
KINDS = {"other": 26, "sentiment": 25, "intent": 20, "topic": 19, "nli": 5, "emotion": 3, "toxicity": 2, "": 1}
GENERATORS = ("mean", "nearest", "uniform", "topk", "ridge", "sg", "icm", "runs/ablations/sg_without_the_learned_prior")
SKILL = {MULTITASK: 0.35, INSTRUCTED: 0.3, "nearest": -0.2, "sg": 0.6, "topk": 0.2, "icm": 0.2, "mean": 0.25}


def make_report(splits, *, methods=(MULTITASK, INSTRUCTED, *GENERATORS), seeds=3, gain_of_oracle=0.25, experts=KINDS):
    """An evaluation whose numbers are drawn, with the intervals of a bootstrap left out: they would take a minute."""
    rng = np.random.default_rng(0)
    centres = {kind: rng.normal(0, 9, 2) for kind in [*KINDS, "stance", "question-type"]}
    tasks, cells = [], []
    for split, members in splits.items():
        for task, kind in members.items():
            x, y = centres[kind] + rng.normal(0, 2.5, 2)
            similarity = rng.uniform(0.35, 0.9)
            tasks.append(
                EvaluatedTask(
                    id=task, split=split, kind=kind, family=task, labels=4, texts=500, nearest="film", x=x, y=y,
                    similarity=similarity,
                )
            )  # fmt: skip
            base, possible = rng.uniform(0.35, 0.7), gain_of_oracle * rng.uniform(0.3, 1)
            for method in (BASE, *methods, ORACLE):
                for seed in range(seeds if method in ("sg", "icm") else 1):
                    part = {BASE: 0.0, ORACLE: 1.0}.get(method)
                    if part is None:
                        part = SKILL.get(method, 0.1) + rng.normal(0, 0.9) + 0.6 * (similarity - 0.6)
                    score = float(np.clip(base + part * possible, 0, 1))
                    scores = Scores(accuracy=score, macro_f1=score, cross_entropy=1.0, knn_accuracy=score**0.7)
                    cells.append(
                        Cell(
                            adapter="0" * 16,
                            task=task,
                            method=method,
                            seed=seed,
                            scores=scores,
                            short=scores,
                            seconds=1.0,
                        )
                    )
    config = EvaluateConfig(
        zoo="zoo", tasks="tasks.yaml", oracles="oracles", out="out", splits=tuple(splits),
        generators=[method for method in methods if method in GENERATORS],
    )  # fmt: skip
    places = [
        MapPoint(id=f"{kind}{i}", split="experts", kind=kind, x=x, y=y)
        for kind, count in experts.items()
        for i, (x, y) in enumerate(centres[kind] + rng.normal(0, 3, (count, 2)))
    ]
    return Report(
        config=config, zoo_hash="0" * 64, tasks=tasks, experts=places, cells=cells, seconds={}, versions={},
        summary=Summary(rows=list(rows(tasks, cells)), controls=(), paraphrases=(), behaviour=()),
    )  # fmt: skip


def rows(tasks, cells):
    groups = {split: {t.id for t in tasks if t.split == split} for split in dict.fromkeys(task.split for task in tasks)}
    methods = list(dict.fromkeys(cell.method for cell in cells))
    for group, ids in (groups | {ALL: {task.id for task in tasks}}).items():
        for score in MAIN:
            mean = {
                m: np.mean([getattr(c.scores, score) for c in cells if c.method == m and c.task in ids])
                for m in methods
            }
            for method in methods:
                possible = mean[ORACLE] - mean[BASE]
                gain = (mean[method] - mean[BASE]) / (possible or 1)
                wide = {"accuracy": 0.15, "knn_accuracy": 0.4}[score] * (3 if method == "nearest" else 1)
                yield SummaryRow(
                    group=group, tasks=len(ids), method=method, score=score,
                    mean=Interval(mean[method], mean[method] - 0.05, mean[method] + 0.05),
                    gain=Interval(gain, gain - wide, gain + 1.3 * wide) if possible else None,
                )  # fmt: skip


def score_of(report, method, task=None, score="accuracy"):
    cells = (cell for cell in report.cells if cell.method == method and task in (None, cell.task))
    return np.mean([getattr(cell.scores, score) for cell in cells])


@cache
def realistic():
    return make_report({"test_near": NEAR, "test_far": FAR})


@cache
def figures():
    return drawn(realistic())


def drawn(report):
    made = evaluation_figures(report)
    for figure in made.values():
        figure.draw_without_rendering()
    return made


def texts(figure):
    """Every text that is seen, of axes, ticks and legends."""
    for axes in figure.axes:
        yield from (text for text in [*axes.texts, axes.title, axes.xaxis.label, axes.yaxis.label] if text.get_text())
        for axis in (axes.xaxis, axes.yaxis) if axes.axison else ():
            shown = [tick for tick in axis.get_major_ticks() if tick.label1.get_visible() and tick.label1.get_text()]
            low, high = sorted(axis.get_view_interval())
            yield from (tick.label1 for tick in shown if low <= tick.get_loc() <= high)
        yield from axes.get_legend().get_texts() if axes.get_legend() else ()
    for legend in figure.legends:
        yield from legend.get_texts()


def words(texts_):
    return [text.get_text() for text in texts_]


def is_inside(figure):
    """Whether nothing is cut at the figure's edges; in inches."""
    bounds, (width, height) = figure.get_tightbbox(), figure.get_size_inches()
    return min(bounds.x0, bounds.y0) >= 0 and bounds.x1 <= width and bounds.y1 <= height


def overlapping(figure):
    boxes = [(text.get_text(), text.get_window_extent()) for text in texts(figure)]
    return [
        (name, other)
        for (name, box), (other, place) in itertools.combinations(boxes, 2)
        if min(box.x1, place.x1) - max(box.x0, place.x0) > 1 and min(box.y1, place.y1) - max(box.y0, place.y0) > 1
    ]


# --- files ---


def test_every_figure_is_written_as_png_and_svg(tmp_path):
    paths = evaluation_plots(make_report(FEW, methods=("sg",)), tmp_path / "plots")
    assert [path.name for path in paths] == [
        f"{name}.{suffix}" for name in ("gains", "similarity", "slopes", "map") for suffix in ("png", "svg")
    ]
    assert sorted(paths) == sorted((tmp_path / "plots").iterdir())
    assert all(path.read_bytes()[:4] == (b"\x89PNG" if path.suffix == ".png" else b"<?xm") for path in paths)


def test_the_same_report_gives_the_same_files(tmp_path):
    report = make_report(FEW, methods=("sg",))
    first, second = (
        [path.read_bytes() for path in write_figure(evaluation_figures(report)["gains"], tmp_path / folder / "gains")]
        for folder in ("first", "second")
    )
    assert first == second


# --- what is to be read ---


@pytest.mark.parametrize("name", ["gains", "similarity", "slopes", "map"])
@pytest.mark.parametrize("dpi", [72, 150])  # SVG is laid out at 72
def test_nothing_is_cut_and_no_texts_overlap(name, dpi):
    figure = figures()[name]
    figure.set_dpi(dpi)
    figure.draw_without_rendering()
    assert is_inside(figure)
    assert overlapping(figure) == []


def test_gains_name_every_method_once_the_best_on_top():
    axes = figures()["gains"].axes[0]
    names = words(axes.get_yticklabels())
    report = realistic()
    gains = {
        short_name(row.method): row.gain for row in report.summary.rows if (row.group, row.score) == (ALL, MAIN[0])
    }
    assert len(names) == 10
    assert names == sorted(gains.keys() - {BASE, ORACLE}, key=lambda name: -gains[name].mean)
    assert axes.get_ylim()[0] > axes.get_ylim()[1]  # the first on top


def test_gains_are_drawn_with_their_intervals_a_colour_a_split():
    figure, report = figures()["gains"], realistic()
    for axes, score in zip(figure.axes, MAIN, strict=True):
        for split, colour in zip(("test_near", "test_far"), COLOURS, strict=False):
            gain = report.summary.row(split, "sg", score).gain
            lines = [line for line in axes.lines if line.get_color() == colour and len(line.get_xdata())]
            assert [gain.low, gain.high] in [list(line.get_xdata()) for line in lines]
            assert [gain.mean] in [list(np.atleast_1d(line.get_xdata())) for line in lines]
    assert {BASE, ORACLE} <= set(words(figure.axes[0].texts))


def test_gains_far_out_become_arrows_at_the_edge():
    report = make_report(FEW, methods=("topk", "sg"))
    beyond = {"topk": Interval(-7.0, -9.0, 0.5), "sg": Interval(0.5, -0.5, 12.0)}
    rows_ = [row.model_copy(update={"gain": beyond.get(row.method, row.gain)}) for row in report.summary.rows]
    summary = report.summary.model_copy(update={"rows": tuple(rows_)})
    axes = evaluation_figures(report.model_copy(update={"summary": summary}))["gains"].axes[0]
    low, high = axes.get_xlim()
    assert -1.5 < low < -1 < 2 < high < 2.5
    markers = [line.get_marker() for line in axes.lines]
    assert (markers.count("<"), markers.count(">")) == (1, 1)
    assert -7.0 not in [x for line in axes.lines for x in np.atleast_1d(line.get_xdata())]


def test_similarity_shows_few_methods_and_every_task():
    figure, report = figures()["similarity"], realistic()
    panels = np.array(figure.axes).reshape(2, 4)
    assert [axes.get_title() for axes in panels[0]] == ["sg", "icm", "topk", MULTITASK]
    assert [axes.get_xlabel() for axes in panels[1]] == ["similarity to the nearest expert"] * 4
    assert [axes.get_ylabel().split("\n")[0] for axes in panels[:, 0]] == ["label-text accuracy", "kNN accuracy"]
    near, far, _ = panels[1, 0].lines
    assert (len(near.get_xdata()), len(far.get_xdata())) == (12, 15)
    first = report.tasks[0]
    reached, base = (score_of(report, method, first.id, "knn_accuracy") for method in ("sg", BASE))
    assert (near.get_xdata()[0], near.get_ydata()[0]) == pytest.approx((first.similarity, reached - base))


def test_slopes_lead_each_named_task_over_the_best_generator():
    figure, report = figures()["slopes"], realistic()
    best = max(report.config.generators, key=lambda method: score_of(report, method))
    for axes, tasks in zip(figure.axes, (NEAR, FAR), strict=True):
        assert words(axes.get_xticklabels()) == [BASE, best, ORACLE]
        assert sorted(words(axes.texts)) == sorted(tasks)
        ends = {line.get_ydata()[0]: line.get_ydata()[-1] for line in axes.lines if len(line.get_xdata()) == 3}
        for text in axes.texts:  # joined to the end of its own line
            assert ends[round(score_of(report, ORACLE, text.get_text()), 9)] == text.get_position()[1]


def test_slopes_that_fall_are_of_another_colour():
    report = realistic()
    best = words(figures()["slopes"].axes[0].get_xticklabels())[1]
    falls = sum(score_of(report, best, task) < score_of(report, BASE, task) for task in (*NEAR, *FAR))
    lines = [line for axes in figures()["slopes"].axes for line in axes.lines if len(line.get_xdata()) == 2]
    first_steps = [line.get_color() for line in lines if list(line.get_xdata()) == [0, 1]]
    assert 0 < falls < 27
    assert (first_steps.count(COLOURS[1]), first_steps.count(COLOURS[0])) == (falls, 27 - falls)


def test_the_map_numbers_the_tasks_and_lists_their_names():
    plane, listing = figures()["map"].axes
    assert words(plane.texts) == [str(number) for number in range(1, 28)]
    assert {*NEAR, *FAR, *words(plane.texts)} <= set(words(listing.texts))
    assert words(plane.get_legend().get_texts()) == ["other", "sentiment", "intent", "topic", "nli", "rarer kinds"]
    points = [collection.get_offsets() for collection in plane.collections]
    assert [len(group) for group in points[:6]] == [26, 25, 20, 19, 5, 6]
    badges = np.array([text.get_position() for text in plane.texts])
    pixels, experts = plane.transData.transform(badges), plane.transData.transform(np.concatenate(points[:6]))
    apart_ = np.linalg.norm(pixels[:, None] - pixels[None], axis=-1) + 1e9 * np.eye(27)
    dots_per_point = plane.figure.dpi / 72
    assert apart_.min() >= 12 * dots_per_point
    assert np.linalg.norm(pixels[:, None] - experts[None], axis=-1).min() >= 9 * dots_per_point


# --- degenerate evaluations ---


@pytest.mark.parametrize(
    ("splits", "settings"),
    [
        (FEW, {"methods": ("sg",), "seeds": 1, "experts": {"topic": 1, "": 1}}),
        (FEW, {"methods": ("a" * 50,)}),
        ({"test": NEAR}, {"methods": ("ridge",), "gain_of_oracle": 0.0}),
        ({f"a_split_with_a_long_name_{n}": {f"hwu_{n}": "intent"} for n in range(3)}, {"methods": ("mean", "sg")}),
        ({"$x$": {f"a_task_with_a_name_that_goes_on_and_on_{n}": "intent" for n in range(33)}}, {"methods": ("sg",)}),
    ],
    ids=["one of each", "no generator", "nothing to gain", "many splits", "many tasks"],
)
def test_other_sizes_are_drawn_whole(splits, settings):
    for name, figure in drawn(make_report(splits, **settings)).items():
        assert is_inside(figure), name


def test_where_the_oracle_gains_nothing_the_figure_says_so():
    report = make_report({"test": NEAR}, methods=("mean", "sg"), gain_of_oracle=0.0)
    made = evaluation_figures(report)
    assert "test: the oracle gains nothing" in made["gains"].axes[0].get_xlabel()
    colours = {to_hex(line.get_color()).upper() for line in made["slopes"].axes[0].lines if len(line.get_xdata()) == 2}
    assert colours.isdisjoint(COLOURS)  # means over different numbers of seeds tie
