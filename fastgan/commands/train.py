"""``fastgan train``: train one of the models into a run folder."""

import argparse
from pathlib import Path

from fastgan.data import DATASETS, load
from fastgan.training import GENERATOR_LOSSES, NETWORKS, TrainConfig, open_run

from .arguments import CommandError, default_device, device_name, positive_float, positive_int, seed_number

HELP = "train a model: losses.csv, sample grids and a checkpoint in a run folder"
DEFAULT_EPOCHS = 25


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", choices=tuple(NETWORKS))
    parser.add_argument("--data", choices=DATASETS, required=True)
    parser.add_argument("--data-dir", type=Path, metavar="DIR", help="folder with the idx files of fashion-mnist")
    parser.add_argument("--out", type=Path, metavar="RUN", help="run folder (default: runs/MODEL-DATA)")
    parser.add_argument("--overwrite", action="store_true", help="replace the run that is in the run folder")
    length = parser.add_argument_group("length: whichever comes first")
    length.add_argument("--steps", type=positive_int, metavar="N")
    length.add_argument("--epochs", type=positive_int, metavar="N", help=f"(default, if alone: {DEFAULT_EPOCHS})")
    length.add_argument("--minutes", type=positive_float, metavar="T")
    parser.add_argument("--batch-size", type=positive_int, default=128, metavar="N", help="(default: %(default)s)")
    parser.add_argument("--seed", type=seed_number, default=0, metavar="N", help="(default: %(default)s)")
    parser.add_argument("--lr", type=positive_float, default=2e-4, help="Adam's learning rate (default: %(default)s)")
    parser.add_argument(
        "--loss", choices=GENERATOR_LOSSES, default="non_saturating", help="of the generator (default: %(default)s)"
    )
    parser.add_argument("--device", type=device_name, default=default_device(), help="(default: %(default)s)")
    parser.add_argument("--channels-last", action="store_true", help="keep images and weights in NHWC layout")
    parser.add_argument("--log-every", type=positive_int, default=50, metavar="STEPS", help="(default: %(default)s)")
    parser.add_argument(
        "--sample-every",
        type=positive_int,
        default=500,
        metavar="STEPS",
        help="between sample grids, and checkpoints (default: %(default)s)",
    )


def run(args: argparse.Namespace) -> int:
    # Here, not above: it needs pillow, and `fastgan --help` should not.
    from fastgan.training.loop import train

    if args.data_dir is not None and not args.data_dir.is_dir():
        raise CommandError(f"--data-dir {args.data_dir}: no such folder")
    unlimited = args.steps is None and args.epochs is None and args.minutes is None
    config = TrainConfig(
        model=args.model,
        data=args.data,
        steps=args.steps,
        epochs=DEFAULT_EPOCHS if unlimited else args.epochs,
        minutes=args.minutes,
        batch_size=args.batch_size,
        seed=args.seed,
        lr=args.lr,
        loss=args.loss,
        device=args.device,
        channels_last=args.channels_last,
        log_every=args.log_every,
        sample_every=args.sample_every,
    )
    generator = NETWORKS[args.model][0]()
    data = load(args.data, "train", generator.image_size, generator.channels, args.data_dir, args.device)
    if args.batch_size > len(data):
        raise CommandError(f"--batch-size {args.batch_size} is larger than the {len(data)} images of {args.data}")
    out = args.out or Path("runs") / f"{args.model}-{args.data}"
    with open_run(out, args.overwrite):
        print(f"{args.model} on {len(data)} images of {args.data} from {data.origin}, {args.device}, into {out}")
        stopped = train(config, data, out)
    if stopped is not None:
        print(f"stopped by {stopped.name}; the checkpoint is {out / 'checkpoint.pt'}")
        return 128 + stopped
    print(f"done; the checkpoint is {out / 'checkpoint.pt'}")
    return 0
