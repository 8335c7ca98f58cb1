"""``fastgan evaluate``: how many samples are of the class that was asked for."""

import argparse
import json
from pathlib import Path

from fastgan.data import load
from fastgan.evaluation.judge import class_accuracy, evaluation_record, trained_judge
from fastgan.files import atomic_write
from fastgan.training import classes_of, load_generator
from fastgan.training.run_folder import EVALUATION, JUDGE

from .arguments import CommandError, default_device, device_name, positive_int, seed_number

HELP = "measure how often a conditional run makes the class asked for"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run_folder", type=Path, metavar="RUN", help="folder that 'fastgan train' wrote")
    parser.add_argument("--samples", type=positive_int, default=10_000, metavar="N", help="(default: %(default)s)")
    parser.add_argument("--seed", type=seed_number, default=0, metavar="N", help="(default: %(default)s)")
    parser.add_argument("--data-dir", type=Path, metavar="DIR", help="folder with the idx files of fashion-mnist")
    parser.add_argument("--device", type=device_name, default=default_device(), help="(default: %(default)s)")


def run(args: argparse.Namespace) -> int:
    generator, config = load_generator(args.run_folder)
    classes = classes_of(generator)
    if classes is None:
        raise CommandError(f"{args.run_folder} is an unconditional {config['model']}: there is no class to ask for")
    if args.samples % classes:
        raise CommandError(f"--samples {args.samples} does not divide into {classes} classes: give a multiple")
    if args.data_dir is not None and not args.data_dir.is_dir():
        raise CommandError(f"--data-dir {args.data_dir}: no such folder")
    generator = generator.to(args.device)
    form = generator.image_size, generator.channels
    real, test = (load(config["data"], split, *form, args.data_dir, args.device) for split in ("train", "test"))
    print(f"judge: trained on {len(real)} real images of {real.name} from {real.origin}", flush=True)
    judge, judge_accuracy = trained_judge(args.run_folder / JUDGE, real, test)
    print(f"judge: right on {judge_accuracy:.1%} of {len(test)} real test images")
    accuracy = class_accuracy(generator, judge, args.samples, args.seed)
    print("class   of the class asked for")
    for number, share in enumerate(accuracy.per_class):
        print(f"{number:5d}   {share:6.1%}")
    print(f"  all   {accuracy.total:6.1%}   of {accuracy.samples} samples, seed {args.seed}")
    record = evaluation_record(accuracy, judge_accuracy, real.name, args.seed)
    atomic_write(args.run_folder / EVALUATION, json.dumps(record, indent=2).encode() + b"\n")
    return 0
