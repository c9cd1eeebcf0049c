"""Evaluate a run: `experiments/evaluate.py --help`."""

from rlx.cli.evaluate import main

raise SystemExit(main())
