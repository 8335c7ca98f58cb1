"""``fastgan sample``: images from a trained generator, as one grid or as one file each."""

import argparse
from pathlib import Path

import torch

from fastgan.training import classes_of, generate, load_generator

from .arguments import CommandError, positive_int, seed_number

HELP = "write images that a trained generator makes"
DEFAULT_PER_CLASS = 10
DEFAULT_COUNT = 64
COLUMNS = 8


def _class_list(text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be class numbers with commas between, got {text!r}") from None


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run_folder", type=Path, metavar="RUN", help="folder that 'fastgan train' wrote")
    parser.add_argument("--out", type=Path, required=True, help="a .png file for one grid, or a folder for a file each")
    parser.add_argument("--classes", type=_class_list, metavar="A,B,...", help="classes to ask for (default: all)")
    parser.add_argument("--n", type=positive_int, help="images in all; a row of the grid is one class")
    parser.add_argument("--seed", type=seed_number, default=0, metavar="N", help="(default: %(default)s)")
    parser.add_argument("--overwrite", action="store_true", help="replace files that are there")


def run(args: argparse.Namespace) -> int:
    # Here, not above: it needs pillow, and `fastgan --help` should not.
    from fastgan.training.grid import save_grid

    generator, config = load_generator(args.run_folder)
    classes, count, columns = _plan(args, classes_of(generator), config["model"])
    names = _names(classes, count)
    one_file = args.out.suffix.lower() == ".png"
    paths = [args.out] if one_file else [args.out / name for name in names]
    _check_out(args, paths)

    # Drawn class by class from one seed, on the CPU: the same on every machine.
    noise = torch.Generator().manual_seed(args.seed)
    z = torch.randn(count, generator.z_dim, generator=noise)
    labels = None if classes is None else torch.tensor(classes).repeat_interleave(columns)
    images = generate(generator, z, labels)
    if one_file:
        save_grid(args.out, images, columns, config["model"], args.seed)
    else:
        args.out.mkdir(parents=True, exist_ok=True)
        for path, image in zip(paths, images, strict=True):
            save_grid(path, image.unsqueeze(0), 1, config["model"], args.seed)
    print(f"wrote {count} images to {args.out}")
    return 0


def _plan(args: argparse.Namespace, available: int | None, model: str) -> tuple[list[int] | None, int, int]:
    """Which classes (None: unconditional), how many images, in how many columns."""
    if available is None:
        if args.classes is not None:
            raise CommandError(f"{args.run_folder} is an unconditional {model}: there is no class to ask for")
        count = args.n or DEFAULT_COUNT
        return None, count, COLUMNS if count % COLUMNS == 0 else count
    classes = args.classes if args.classes is not None else list(range(available))
    wrong = [number for number in classes if not 0 <= number < available]
    if wrong:
        raise CommandError(f"--classes: {wrong[0]} is not one of 0 to {available - 1}")
    count = args.n or DEFAULT_PER_CLASS * len(classes)
    if count % len(classes):
        raise CommandError(f"--n {count} does not divide into {len(classes)} classes: give a multiple")
    return classes, count, count // len(classes)


def _names(classes: list[int] | None, count: int) -> list[str]:
    if classes is None:
        return [f"{index:05d}.png" for index in range(count)]
    per_class = count // len(classes)
    return [f"{index:05d}-class{classes[index // per_class]}.png" for index in range(count)]


def _check_out(args: argparse.Namespace, paths: list[Path]) -> None:
    if args.out.suffix.lower() == ".png":
        if args.out.is_dir():
            raise CommandError(f"--out {args.out} is a folder: give it a name without .png, or name a file")
        if not args.out.parent.is_dir():
            raise CommandError(f"--out {args.out}: there is no folder {args.out.parent}")
    elif args.out.exists() and not args.out.is_dir():
        raise CommandError(f"--out {args.out} is a file that does not end in .png: name a .png file, or a folder")
    taken = [path for path in paths if path.exists()]
    if taken and not args.overwrite:
        raise CommandError(f"{taken[0]} exists: choose another --out, or --overwrite to replace it")
