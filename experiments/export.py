"""Export a trained policy: `experiments/export.py --help`."""

from rlx.cli.export import main

raise SystemExit(main())
