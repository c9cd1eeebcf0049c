"""Report on runs: `experiments/report.py --help`."""

from rlx.cli.report import main

raise SystemExit(main())
