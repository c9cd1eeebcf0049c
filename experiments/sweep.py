"""Sweep settings and seeds: `experiments/sweep.py --help`."""

from rlx.cli.sweep import main

raise SystemExit(main())
