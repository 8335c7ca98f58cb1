"""``fastgan evaluate``: how good the images of a generator are, in numbers and as a picture."""

import importlib.util
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import Progress

from fastgan.data import load
from fastgan.evaluation import Evaluation, evaluate_generator, save_confusion
from fastgan.files import atomic_write
from fastgan.training import Trained, classes_of, load_generator
from fastgan.training.run_folder import CONFUSION, EVALUATION

from . import (
    CommandError,
    DataDirOption,
    DeviceOption,
    RunArgument,
    SeedOption,
    check_data_dir,
    check_device,
)

EXAMPLES = """\
Examples:
  fastgan evaluate runs/cgan
  fastgan evaluate generator.safetensors --out results --samples 1000
  fastgan evaluate runs/dcgan --fid
"""


def evaluate(
    run: RunArgument,
    samples: Annotated[int, typer.Option(metavar="N", min=2, help="How many images to make and judge.")] = 10_000,
    seed: SeedOption = 0,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Where to write the results. [default: RUN]", show_default=False)
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Other data than the run's own, or where it is now.", show_default=False),
    ] = None,
    data_dir: DataDirOption = None,
    fid: Annotated[
        bool, typer.Option("--fid", help="Also the FID of torch-fidelity, if its weights are on disk.")
    ] = False,
    fid_weights: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Those weights. [default: in torch.hub's folder]", show_default=False),
    ] = None,
    device: DeviceOption = None,
) -> None:
    """Measure the images of a run: are they of the class asked for, and how far from real ones?

    A small classifier, trained once on the real images and kept, is the judge. Writes evaluation.json and, for a
    conditional model, confusion.png.
    """
    device = check_device(device)
    check_data_dir(data_dir)
    trained = load_generator(run)
    classes = classes_of(trained.generator)
    if classes is not None and samples % classes:
        raise CommandError(f"--samples {samples} does not divide into {classes} classes: give a multiple")
    if classes is not None and importlib.util.find_spec("matplotlib") is None:
        raise ModuleNotFoundError("No module named 'matplotlib'", name="matplotlib")
    folder = _results_folder(run, out)
    config = trained.config
    name, fid = data or config.data, fid or fid_weights is not None
    place = data_dir or (Path(config.data_dir) if config.data_dir is not None and data is None else None)
    real = load(name, "train", *config.form, place, device)
    if real.classes is None and not fid:
        raise CommandError(f"{name} has no classes, so no judge can learn from it: ask for --fid")
    test = real if real.classes is None else load(name, "test", *config.form, place, device)
    try:
        with _progress("measuring") as progress:
            result = evaluate_generator(
                trained.generator.to(device),
                real,
                test,
                samples=samples,
                seed=seed,
                progress=progress,
                fid=fid,
                fid_weights=fid_weights,
            )
    except ValueError as error:  # what does not fit together, as classes that the generator has not seen
        raise CommandError(str(error)) from error
    _print(result, trained, real.class_names)
    record = {"run": {"config": config.to_json(), "step": trained.step}, **result.record()}
    atomic_write(folder / EVALUATION, json.dumps(record, indent=2).encode() + b"\n")
    if result.confusion is not None:
        save_confusion(folder / CONFUSION, result.confusion, real.class_names, result.judge_accuracy or 0.0)
    print(f"wrote {folder / EVALUATION}" + (f" and {CONFUSION}" if result.confusion is not None else ""))


def _results_folder(run: Path, out: Path | None) -> Path:
    """Where to write, made and tried before minutes are spent on measuring."""
    if out is None and not run.is_dir():
        raise CommandError(f"--out: name a folder for the results, as {run} is a file")
    folder = out or run
    if folder.exists() and not folder.is_dir():
        raise CommandError(f"--out {folder} is a file: name a folder")
    folder.mkdir(parents=True, exist_ok=True)
    if not os.access(folder, os.W_OK):
        raise CommandError(f"--out {folder}: it cannot be written to")
    return folder


@contextmanager
def _progress(what: str) -> Iterator[Callable[[float], None]]:
    """A bar on a terminal, nothing elsewhere."""
    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(what, total=1.0)
        yield lambda fraction: bar.update(task, completed=fraction)


def _print(result: Evaluation, trained: Trained, names: tuple[str, ...]) -> None:
    if result.judge_accuracy is not None:
        print(f"judge: right on {result.judge_accuracy:.1%} of the real test images")
    accuracy = result.class_accuracy
    if accuracy is not None:
        print("of the class asked for:")
        for number, share in enumerate(accuracy.per_class):
            print(f"  {share:6.1%}  {names[number]}")
        print(f"  {accuracy.total:6.1%}  all, of {accuracy.samples} samples")
    elif result.class_shares is not None:
        print(f"share of the samples of this {trained.config.model} that the judge takes for:")
        for name, share in zip(names, result.class_shares, strict=True):
            print(f"  {share:6.1%}  {name}")
    if result.frechet is not None:
        print(
            f"Fréchet distance in the judge's features: {result.frechet.distance:.2f} "
            f"(real against real: {result.frechet.floor:.2f})"
        )
    if result.fid is not None:
        print(f"FID: {result.fid.distance:.2f}")
