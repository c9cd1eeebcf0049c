"""Ask a trained zero-shot agent for a reward or a goal: `experiments/zero_shot.py --help`."""

from rlx.cli.zero_shot import main

raise SystemExit(main())
