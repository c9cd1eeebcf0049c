"""Collect a policy's rollouts as a dataset: `experiments/collect.py --help`."""

from rlx.cli.collect import main

raise SystemExit(main())
