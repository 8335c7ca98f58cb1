"""``fastgan sample``: images from a trained generator, as a grid, as a file each, or as a walk between them."""

from pathlib import Path
from typing import Annotated

import torch
import typer

from fastgan.training import Trained, generate, load_generator

from . import CommandError, OverwriteOption, RunArgument, SeedOption, check_new_file

EXAMPLES = """\
Examples:
  fastgan sample runs/cgan --out grid.png
  fastgan sample runs/cgan --classes 0,3 --n 64 --seed 1 --out folder
  fastgan sample runs/cgan --classes Coat,Bag --out walk.gif
"""

DEFAULT_PER_CLASS = 10
DEFAULT_COUNT = 64
COLUMNS = 8
MOST_COLUMNS = 16
FRAMES_PER_SECOND = 20
CHUNK = 256  # images that are made at once


def sample(
    run: RunArgument,
    out: Annotated[
        Path,
        typer.Option(
            metavar="PATH", help="A .png for one grid, a .gif for an interpolation, or a folder for a file each."
        ),
    ],
    classes: Annotated[
        str | None,
        typer.Option(metavar="A,B,...", help="Numbers or names of classes. [default: all]", show_default=False),
    ] = None,
    n: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="Images in all, in equal parts.", show_default=False)
    ] = None,
    seed: SeedOption = 0,
    frames: Annotated[int, typer.Option(metavar="N", min=2, help="Of a .gif.")] = 80,
    overwrite: OverwriteOption = False,
) -> None:
    """Write images that a trained generator makes; a row of a grid is one class."""
    # Here, not above: it needs pillow, and `fastgan --help` should not.
    from fastgan.training.pictures import describe, save_gif, save_png, to_grid

    trained = load_generator(run)
    chosen, count = _plan(trained, run, classes, n)
    columns = _columns(count if chosen is None else count // len(chosen), conditional=chosen is not None)
    kind = out.suffix.lower()
    paths = [out] if kind in (".png", ".gif") else [out / name for name in _names(chosen, count)]
    _check_out(out, paths, overwrite)
    dice = torch.Generator().manual_seed(seed)  # a CPU one: the same on every machine
    z = torch.randn(count, trained.generator.z_dim, generator=dice)
    labels = None if chosen is None else torch.tensor(chosen).repeat_interleave(count // len(chosen))

    def description(numbers: list[int] | None) -> str:
        shown = {} if numbers is None else {"class": "+".join(trained.class_names[number] for number in numbers)}
        return describe(trained.config.model, seed, step=trained.step, **shown)

    if kind == ".gif":
        circle = _circle(z, torch.randn(z.shape, generator=dice), frames)
        grids = [to_grid(_images(trained, point, labels), columns) for point in circle]
        save_gif(out, grids, FRAMES_PER_SECOND, description(chosen))
    elif kind == ".png":
        save_png(out, to_grid(_images(trained, z, labels), columns), description(chosen))
    else:
        out.mkdir(parents=True, exist_ok=True)
        for start in range(0, count, CHUNK):
            part = slice(start, start + CHUNK)  # not all at once: there may be thousands
            images = _images(trained, z[part], None if labels is None else labels[part])
            for index, image in enumerate(images, start):
                text = description(None if labels is None else [int(labels[index])])
                save_png(paths[index], to_grid(image.unsqueeze(0), 1), f"{text}, image {index}")
    print(f"wrote {f'{frames} frames of ' if kind == '.gif' else ''}{count} images to {out}")


def _images(trained: Trained, z: torch.Tensor, labels: torch.Tensor | None) -> torch.Tensor:
    inputs = [x.split(CHUNK) for x in (z, labels) if x is not None]
    return torch.cat([generate(trained.generator, *part) for part in zip(*inputs, strict=True)])


def _circle(z: torch.Tensor, other: torch.Tensor, frames: int) -> list[torch.Tensor]:
    """``frames`` noise tensors [N, z_dim] from ``z`` through ``other``, drawn like it, and back.

    cos(t) z + sin(t) other: every point is N(0, I) too. Those of a straight line would come too close to 0, where the
    generator has not been trained (White 2016, "Sampling Generative Networks", arXiv:1609.04468, section 2).
    """
    angles = torch.arange(frames) * (2 * torch.pi / frames)
    return [angle.cos() * z + angle.sin() * other for angle in angles]


def _plan(trained: Trained, run: Path, classes: str | None, n: int | None) -> tuple[list[int] | None, int]:
    """Which classes (None: unconditional), and how many images."""
    names = trained.class_names
    if not names:
        if classes is not None:
            raise CommandError(
                f"--classes: {run} is an unconditional {trained.config.model}: there is no class to ask for"
            )
        return None, n or DEFAULT_COUNT
    chosen = list(range(len(names))) if classes is None else [_class_number(part, names) for part in classes.split(",")]
    count = n or DEFAULT_PER_CLASS * len(chosen)
    if count % len(chosen):
        raise CommandError(f"--n {count} does not divide into {len(chosen)} classes: give a multiple")
    return chosen, count


def _columns(in_a_row: int, conditional: bool) -> int:
    """How many columns a grid has: all of a class, or as many of a class as leave no gap in its rows."""
    if not conditional:
        return min(COLUMNS, in_a_row)
    if in_a_row <= MOST_COLUMNS:
        return in_a_row
    return max(columns for columns in range(1, MOST_COLUMNS + 1) if in_a_row % columns == 0)


def _class_number(text: str, names: tuple[str, ...]) -> int:
    for spelling in (list(names), [name.lower() for name in names], [str(number) for number in range(len(names))]):
        wanted = text.strip() if spelling == list(names) else text.strip().lower()
        if wanted in spelling:  # by name before by number: a class may be called 2 and not be the third
            return spelling.index(wanted)
    known = ", ".join(str(number) if name == str(number) else f"{number} {name}" for number, name in enumerate(names))
    raise CommandError(f"--classes: {text!r} is not one of {known}")


def _names(chosen: list[int] | None, count: int) -> list[str]:
    if chosen is None:
        return [f"{index:05d}.png" for index in range(count)]
    per_class = count // len(chosen)
    return [f"{index:05d}-class{chosen[index // per_class]}.png" for index in range(count)]


def _check_out(out: Path, paths: list[Path], overwrite: bool) -> None:
    if paths == [out]:
        check_new_file("--out", out, overwrite)
    elif out.exists() and not out.is_dir():
        raise CommandError(f"--out {out} is a file that ends in neither .png nor .gif: name one that does, or a folder")
    elif out.suffix and not out.is_dir():
        raise CommandError(f"--out {out}: a file must end in .png or .gif, and a folder has no ending")
    else:
        taken = [path for path in paths if path.exists()]
        if taken and not overwrite:
            raise CommandError(f"{taken[0]} exists: choose another --out, or --overwrite to replace it")
