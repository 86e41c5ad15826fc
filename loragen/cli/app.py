"""The command line: every command parses, calls the library, and prints. Heavy imports stand in the commands."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from loragen.cli.check import check
from loragen.cli.combine import combine
from loragen.cli.complete import complete
from loragen.cli.options import BaseOption, ForceOption, JsonOption, base_name, refuse_to_replace
from loragen.cli.zoo_import import zoo_import
from loragen.errors import ConfigError, LoragenError, TaskError

if TYPE_CHECKING:
    from loragen.conditions.text_encoder import TextEncoder
    from loragen.evaluation.report import Report
    from loragen.exporters.card import GeneratedCard
    from loragen.exporters.peft_folder import Written
    from loragen.generators.base import Generation
    from loragen.recipes.few_shot import FewShotRecipe
    from loragen.tasks.examples import Support
    from loragen.zoo.card import Card
    from loragen.zoo.zoo import Zoo

app = typer.Typer(
    help="Describe a task in words; get a LoRA.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
zoo_app = typer.Typer(help="Build and inspect zoos of expert adapters.", no_args_is_help=True)
app.add_typer(zoo_app, name="zoo")

ZooOption = Annotated[Path | None, typer.Option("--zoo", help="Folder of a zoo (default: the one that comes along).")]
LicenceOption = Annotated[
    list[str] | None,
    typer.Option("--licence", help="Only experts whose data has this licence; repeat for several."),
]
EncoderOption = Annotated[str, typer.Option("--encoder", help="Text encoder for descriptions.")]
SetOption = Annotated[list[str] | None, typer.Option("--set", help="Override a value of the config: key.sub=value.")]
ENCODER = "sentence-transformers/all-MiniLM-L6-v2"


def main() -> None:
    """Run the command line; a user's mistake ends with status 2 and no traceback, Ctrl-C with 130."""
    from loragen.cli import console

    try:
        app()
    except LoragenError as error:
        console.say_error(str(error))
        sys.exit(2)
    except KeyboardInterrupt:
        console.say_error("interrupted; what was finished is kept, and the same command goes on from there.")
        sys.exit(130)


@app.command()
def generate(
    description: Annotated[str, typer.Argument(help="The task, in words.", show_default=False)],
    generator: Annotated[
        str, typer.Option(help="sg, icm, attention, hyper, ridge, topk, nearest, mean, or a generator's folder.")
    ] = "sg",
    examples: Annotated[
        Path | None,
        typer.Option(
            help="A few texts of the task (column text), labelled (label) or not; for icm, attention, hyper, and --fit."
        ),
    ] = None,
    fit: Annotated[
        bool,
        typer.Option("--fit", help="Then fit the adapter to the labelled --examples."),
    ] = False,
    labels: Annotated[
        str | None, typer.Option(help="The task's label names, separated by commas; for attention, hyper, and --fit.")
    ] = None,
    own_adapter: Annotated[
        Path | None,
        typer.Option(help="An adapter of this very task, for generators that follow a paper in needing it."),
    ] = None,
    top_k: Annotated[int | None, typer.Option(min=1, help="Experts to draw on.")] = None,
    samples: Annotated[int, typer.Option(min=1, help="Adapters to draw.")] = 1,
    seed: Annotated[int, typer.Option(help="Same seed, same bytes.")] = 0,
    out: Annotated[Path | None, typer.Option(help="Folder to write (default: adapters/NAME-OF-TASK).")] = None,
    merge: Annotated[bool, typer.Option("--merge", help="Also write the base with the adapter merged in.")] = False,
    force: ForceOption = False,
    licence: LicenceOption = None,
    zoo: ZooOption = None,
    encoder: EncoderOption = ENCODER,
    as_json: JsonOption = False,
) -> None:
    """Generate a LoRA for a task described in words."""
    if not description.strip():
        raise TaskError('The task description is empty; say the task in words, as in: loragen generate "Sort …".')
    if fit and examples is None:
        raise ConfigError("--fit wants labelled examples of the task; give a file of them with --examples.")
    names = None if labels is None else _label_names(labels)
    import torch

    from loragen.adapters.adapter import Lora
    from loragen.conditions.condition import Conditioner
    from loragen.exporters.card import card_of, slug
    from loragen.exporters.peft_folder import write_adapter
    from loragen.generators.registry import open_generator
    from loragen.tasks.examples import Support

    folder = out or Path("adapters") / slug(description)
    folders = [folder] if samples == 1 else [folder / f"sample-{number}" for number in range(samples)]
    refuse_to_replace([*folders, *([f.with_name(f.name + "-merged") for f in folders] if merge else [])], force=force)
    opened, text_encoder = _zoo_and_encoder(zoo, encoder)
    maker = open_generator(generator, opened, text_encoder, licences=licence, top_k=top_k)
    support = None if examples is None else Support.from_file(examples)
    # What a generator does not read is there for the fit alone.
    condition = Conditioner.of(maker, text_encoder).condition(
        description,
        labels=None if fit and "labels" not in maker.evidence else names,
        support=None if fit and "examples" not in maker.evidence else support,
        own_adapter=None if own_adapter is None else Lora.load(own_adapter),
    )
    generations = maker.generate(condition, rng=torch.Generator().manual_seed(seed), num_samples=samples)
    recipe = None
    if fit:
        assert support is not None
        recipe, generations = _fitted(generations, support, names, opened)
    results = []
    for sample, (generation, target) in enumerate(zip(generations, folders, strict=True)):
        card = card_of(
            generation,
            opened,
            description=description,
            generator=generator,
            seed=seed,
            sample=sample,
            examples=0 if support is None else len(support.texts),
            labels=names or (),
            fitted=recipe,
            encoder=encoder,
            encoder_hash=text_encoder.fingerprint,
        )
        results.append((card, write_adapter(generation, card, target)))
        if merge:
            _merge(target, target.with_name(target.name + "-merged"))
    _show_generated(results, merged=merge, is_stochastic=maker.is_stochastic, as_json=as_json)


def _fitted(
    generations: "list[Generation]", support: "Support", labels: list[str] | None, zoo: "Zoo"
) -> "tuple[FewShotRecipe, list[Generation]]":
    from dataclasses import replace

    from loragen.cli import console
    from loragen.recipes.few_shot import FewShotRecipe, examples_of, fit_examples

    recipe, backbone = FewShotRecipe(), zoo.load_base()
    data = examples_of(support, labels, backbone, max_length=recipe.max_length)
    fitted: list[Generation] = []
    with console.progress() as update:
        for generation in generations:

            def show(step: int, before: int = recipe.steps * len(fitted)) -> None:
                update("fitting to the examples", before + step, recipe.steps * len(generations))

            adapter = fit_examples(generation.adapter, data, backbone, recipe, on_step=show)
            fitted.append(replace(generation, adapter=adapter))
    return recipe, fitted


def _zoo_and_encoder(zoo: Path | None, encoder: str) -> "tuple[Zoo, TextEncoder]":
    from loragen.conditions.text_encoder import TextEncoder
    from loragen.zoo.zoo import Zoo, default_zoo

    return Zoo.open(zoo or default_zoo()), TextEncoder.load(encoder)


def _show_generated(
    results: "list[tuple[GeneratedCard, Written]]", *, merged: bool, is_stochastic: bool, as_json: bool
) -> None:
    from loragen.cli import console

    if as_json:
        console.say_json(
            [
                card.model_dump(mode="json")
                | {
                    "folder": str(written.folder),
                    "norm": round(written.norm, 6),
                    "sites": written.sites,
                    "r": written.r,
                }
                for card, written in results
            ]
        )
        return
    card, written = results[0]
    parents = card.parents[:8]
    console.table(
        f"Nearest experts of {len(card.parents)} used" if len(card.parents) > 8 else "Experts it draws on",
        ("expert", "similarity", "weight", "licence"),
        [(p.id, f"{p.similarity:.3f}", f"{p.weight:.3f}", p.licence) for p in parents],
        numbers=("similarity", "weight"),
    )
    if len(results) > 1 and not is_stochastic:
        console.say(f"[yellow]{card.generator} draws nothing at random: the {len(results)} samples are equal.[/]")
    fitted = f"fitted to {card.examples} examples; " if card.fitted else ""
    for _card, made in results:
        console.say(
            f"[green]✓[/] {made.folder}: rank {made.r} at {made.sites} sites; {fitted}"
            f"read back and not a no-op, its update has norm {made.norm:.2f}"
        )
        if merged:
            console.say(f"[green]✓[/] {made.folder}-merged: the base with it merged in")
    console.say(f"\nTry it:  loragen {_trial(written)}")


def _trial(written: "Written") -> str:
    if written.task_type in ("CAUSAL_LM", "SEQ_2_SEQ_LM"):
        return f'complete {written.folder} "a prompt"'
    return (
        f'classify {written.folder} "a text" --labels first,second' if written.task_type else f"check {written.folder}"
    )


@app.command()
def classify(
    adapter: Annotated[Path, typer.Argument(help="An adapter folder.")],
    texts: Annotated[list[str], typer.Argument(help="Texts to classify.", show_default=False)],
    labels: Annotated[str, typer.Option(help="Label names, separated by commas.")],
    base: BaseOption = None,
    as_json: JsonOption = False,
) -> None:
    """Try an adapter on texts: the label that fits best, beside what the bare base says."""
    names = _label_names(labels)
    if not all(text.strip() for text in texts):
        raise TaskError("One of the texts is empty; every text must hold at least a word.")
    from loragen.adapters.adapter import Lora
    from loragen.bases.classify import classify_texts
    from loragen.bases.open import objective_of, open_base
    from loragen.cli import console

    loaded = Lora.load(adapter)
    name = base_name(loaded.settings.base_model_name_or_path, base)
    backbone = open_base(name, objective=objective_of(loaded.settings.task_type))
    adapted = classify_texts(backbone, loaded, texts, names)
    bare = classify_texts(backbone, None, texts, names)
    if as_json:
        console.say_json(
            [
                {
                    "text": text,
                    "label": a.label,
                    "probability": round(a.probability, 4),
                    "probabilities": a.by_label,
                    "base_label": b.label,
                    "base_probability": round(b.probability, 4),
                }
                for text, a, b in zip(texts, adapted, bare, strict=True)
            ]
        )
        return
    console.table(
        str(adapter),
        ("text", "label", "p", "bare base says", "p "),
        [
            (text, a.label, f"{a.probability:.2f}", b.label, f"{b.probability:.2f}")
            for text, a, b in zip(texts, adapted, bare, strict=True)
        ],
        numbers=("p", "p "),
    )


def _label_names(labels: str) -> list[str]:
    names = [name.strip() for name in labels.split(",") if name.strip()]
    if len(names) < 2 or len(set(names)) < len(names):
        raise ConfigError(f"--labels {labels!r} gives {len(names)} names; at least two different ones are wanted.")
    return names


@app.command()
def merge(
    adapter: Annotated[Path, typer.Argument(help="An adapter folder.")],
    out: Annotated[Path, typer.Option(help="Folder for the merged model.")],
    base: BaseOption = None,
    force: ForceOption = False,
    as_json: JsonOption = False,
) -> None:
    """Merge an adapter into its base: a plain model folder for transformers and sentence-transformers."""
    from loragen.cli import console

    refuse_to_replace([out], force=force)
    _merge(adapter, out, base)
    if as_json:
        console.say_json({"folder": str(out)})
        return
    console.say(f"[green]✓[/] {out}: a plain model folder; transformers loads it by from_pretrained")


def _merge(adapter: Path, out: Path, base: str | None = None) -> None:
    from loragen.adapters.adapter import Lora
    from loragen.bases.hub import resolve_model
    from loragen.exporters.merged_model import merge_into_base

    loaded = Lora.load(adapter)
    merge_into_base(loaded, resolve_model(base_name(loaded.settings.base_model_name_or_path, base)), out)


app.command("combine")(combine)
app.command("check")(check)
app.command("complete")(complete)


@app.command()
def train(
    config: Annotated[Path, typer.Argument(help="A YAML file, such as configs/train/sg.yaml.")],
    objective: Annotated[
        str | None,
        typer.Option(help="What is learnt: weights, task or both (default: what the config says)."),
    ] = None,
    overrides: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Train a generator on a zoo; an interrupted run goes on where it was."""
    from loragen.cli import console
    from loragen.generators.train import read_config, train_generator

    settings = read_config(config, overrides or (), objective=objective)
    with console.progress() as update:
        trained = train_generator(settings, on_step=lambda step: update("training steps", step, settings.steps))
    if as_json:
        console.say_json({"folder": str(settings.out), "losses": trained.final})
        return
    losses = ", ".join(f"{name} {value:.3f}" for name, value in trained.final.items())
    console.say(f"[green]✓[/] {settings.out}: {len(trained.experts)} experts; at the end {losses}")
    console.say(f"  curves: {trained.plot}" if trained.plot else "  for curves: pip install 'loragen\\[plot]'")


@app.command()
def evaluate(
    target: Annotated[
        Path, typer.Argument(help="A YAML file, such as configs/evaluate/test.yaml, or an adapter folder.")
    ],
    data: Annotated[
        Path | None, typer.Option(help="Labelled texts (columns text, label) to judge an adapter on.")
    ] = None,
    description: Annotated[
        str | None, typer.Option(help="The task in words (default: what the adapter's card says).")
    ] = None,
    base: BaseOption = None,
    zoo: ZooOption = None,
    encoder: EncoderOption = ENCODER,
    overrides: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Judge generators on tasks their zoo has not seen, or one adapter on your own labelled data."""
    if target.is_dir():
        if data is None:
            raise ConfigError(f"{target} is an adapter; give the labelled texts to judge it on with --data.")
        _evaluate_adapter(target, data, description, base, zoo, encoder, as_json=as_json)
        return
    if data is not None:
        raise ConfigError("--data goes with an adapter folder; a config names its own tasks.")
    from loragen.cli import console
    from loragen.evaluation.evaluate import EvaluateConfig
    from loragen.evaluation.evaluate import evaluate as run
    from loragen.evaluation.report import write_report

    with console.progress() as update:
        bench, cells = run(EvaluateConfig.from_yaml(target, overrides or ()), update)
    report, files = write_report(bench, cells)
    if as_json:
        console.say_json(report.model_dump(mode="json", include={"summary", "seconds", "tasks"}))
        return
    _show_summary(report)
    console.say("\n".join(f"[green]✓[/] {file}" for file in files))


def _show_summary(report: "Report") -> None:
    from loragen.cli import console
    from loragen.evaluation.report import TITLES, shown_groups, span
    from loragen.evaluation.summary import KIND

    summary = report.summary
    for group in (group for group in shown_groups(report) if not group.startswith(KIND)):
        for score in summary.main:
            rows = [row for row in summary.rows if (row.group, row.score) == (group, score)]
            console.table(
                f"{group}, {rows[0].tasks} tasks: {TITLES[score]}",
                ("adapter", "mean", "recovered gain", "above topk"),
                [
                    (
                        row.method,
                        f"{row.mean.mean:.3f}",
                        span(row.gain, digits=2) if row.gain else "",
                        span(row.above["topk"], signed=True) if "topk" in row.above else "",
                    )
                    for row in rows
                ],
                numbers=("mean", "recovered gain", "above topk"),
            )


def _evaluate_adapter(
    folder: Path,
    data: Path,
    description: str | None,
    base: str | None,
    zoo: Path | None,
    encoder: str,
    *,
    as_json: bool,
) -> None:
    from dataclasses import asdict

    from loragen.adapters.adapter import Lora
    from loragen.bases.open import objective_of, open_base
    from loragen.cli import console
    from loragen.evaluation.own_data import description_of, judge, task_from_file
    from loragen.evaluation.report import span

    adapter = Lora.load(folder)
    told = description or description_of(folder)
    task = task_from_file(data, told or "not described")
    opened, text_encoder = _zoo_and_encoder(zoo, encoder)
    name = base_name(adapter.settings.base_model_name_or_path, base)
    backbone = open_base(name, objective=objective_of(adapter.settings.task_type))
    judged = judge(adapter, task, backbone, opened, text_encoder, is_described=told is not None)
    if as_json:
        console.say_json([asdict(row) | {"scores": row.scores.model_dump()} for row in judged])
        return
    for title, scores, above in (
        ("by label texts", {"accuracy": "accuracy", "macro_f1": "macro-F1"}, "above"),
        ("by neighbours", {"knn_accuracy": "accuracy", "v_measure": "V-measure"}, "knn_above"),
    ):
        columns = ("adapter", *scores.values(), "this adapter above")
        console.table(
            f"{data}, {len(task.labels)} labels, {title}",
            columns,
            [
                (
                    row.method,
                    *(f"{getattr(row.scores, score):.3f}" for score in scores),
                    "" if getattr(row, above) is None else span(getattr(row, above), signed=True),
                )
                for row in judged
            ],
            numbers=columns[1:],
        )
    if told is None:
        console.say("Neither the adapter's card nor --description says the task: nearest and topk are left out.")


@zoo_app.command("build")
def zoo_build(
    config: Annotated[Path, typer.Argument(help="A YAML file, such as configs/zoo/minilm.yaml.")],
    overrides: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Train the experts of a zoo, and its folds if asked for; an interrupted build goes on where it was."""
    from loragen.cli import console
    from loragen.zoo.build import Progress, ZooConfig, build
    from loragen.zoo.zoo import Zoo

    settings = ZooConfig.from_yaml(config, overrides or ())
    with console.progress() as update:

        def report(progress: Progress) -> None:
            shown = {"multitask": "multi-task steps"}.get(progress.stage, progress.stage)
            update(shown, progress.done, progress.total)

        build(settings, report)
    _show_zoo(Zoo.open(settings.out), as_json=as_json)


zoo_app.command("import")(zoo_import)


@zoo_app.command("list")
def zoo_list(
    licence: LicenceOption = None,
    split: Annotated[list[str] | None, typer.Option(help="Only this split; repeat for several.")] = None,
    zoo: ZooOption = None,
    as_json: JsonOption = False,
) -> None:
    """List the experts of a zoo with their scores."""
    from loragen.zoo.zoo import Zoo, default_zoo

    opened = Zoo.open(zoo or default_zoo())
    _show_zoo(opened.select(splits=split, licences=licence), as_json=as_json)


def _show_zoo(zoo: "Zoo", *, as_json: bool) -> None:
    from loragen.cli import console

    if as_json:
        console.say_json([card.model_dump(mode="json", exclude={"recipe", "held_out_losses"}) for card in zoo])
        return
    from loragen.bases.scores import shown_scores

    titles = shown_scores(card.after for card in zoo)
    rows = [
        (
            card.id,
            card.split,
            str(len(card.labels)),
            *(_gain(card, score) for score in titles),
            card.licence,
        )
        for card in zoo
    ]
    console.table(
        f"{zoo.manifest.name}: {len(zoo)} experts; scores of base → expert",
        ("expert", "split", "labels", *titles.values(), "licence"),
        rows,
        numbers=("labels", *titles.values()),
    )


def _gain(card: "Card", score: str) -> str:
    if card.before is None or card.after is None:
        return "not scored"
    values = (getattr(card.before, score, None), getattr(card.after, score, None))
    return " → ".join("" if value is None else f"{value:.3f}" for value in values)


@zoo_app.command("show")
def zoo_show(
    expert: Annotated[str, typer.Argument(help="Its id, as in `loragen zoo list`.")],
    zoo: ZooOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show the card of an expert."""
    from loragen.cli import console
    from loragen.zoo.card import card_text
    from loragen.zoo.zoo import Zoo, default_zoo

    card = Zoo.open(zoo or default_zoo()).card(expert)
    if as_json:
        console.say_json(card.model_dump(mode="json"))
        return
    console.out.print(card_text(card), markup=False, end="")


@zoo_app.command("search")
def zoo_search(
    description: Annotated[str, typer.Argument(help="A task, in words.")],
    top_k: Annotated[int, typer.Option(min=1, help="How many experts.")] = 8,
    licence: LicenceOption = None,
    zoo: ZooOption = None,
    encoder: EncoderOption = ENCODER,
    as_json: JsonOption = False,
) -> None:
    """Find the experts whose descriptions are nearest to a task."""
    from loragen.cli import console
    from loragen.zoo.expert_index import ExpertIndex

    opened, text_encoder = _zoo_and_encoder(zoo, encoder)
    library = ExpertIndex.of(opened.select(licences=licence), text_encoder)
    hits = library.index.search(text_encoder.encode([description])[0], top_k)
    if as_json:
        console.say_json(
            [
                {"id": h.id, "similarity": round(h.similarity, 4), "description": opened.card(h.id).description}
                for h in hits
            ]
        )
        return
    rows = [(h.id, f"{h.similarity:.3f}", opened.card(h.id).description) for h in hits]
    console.table(
        f"Nearest of {len(library.zoo)} experts", ("expert", "similarity", "description"), rows, numbers=("similarity",)
    )


@zoo_app.command("check")
def zoo_check(zoo: ZooOption = None, as_json: JsonOption = False) -> None:
    """Verify every expert and fold of a zoo: files whole, shapes and base as the zoo's, statistics finite."""
    from loragen.cli import console
    from loragen.zoo.zoo import Zoo, default_zoo

    opened = Zoo.open(zoo or default_zoo())
    checked = dict(opened.check())
    folds = len(checked) - len(opened)
    faults = {name: fault for name, fault in checked.items() if fault is not None}
    if as_json:
        console.say_json({"experts": len(opened), "folds": folds, "faults": faults})
    else:
        for name, fault in faults.items():
            console.say_error(f"{name}: {fault}")
        if not faults:
            also = f" and {folds} folds" if folds else ""
            console.say(f"[green]✓[/] {len(opened)} experts{also}, all whole")
    if faults:
        raise typer.Exit(2)
