"""Look at a dataset of any layout, rewrite, cut or score it: `experiments/data.py --help`."""

from rlx.cli.data import main

raise SystemExit(main())
