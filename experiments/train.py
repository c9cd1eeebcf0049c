"""Train an agent: `experiments/train.py --help`."""

from rlx.cli.train import main

raise SystemExit(main())
