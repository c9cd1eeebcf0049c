"""``python -m rlx COMMAND``: the same as ``rlx COMMAND``."""

from rlx.cli import main

raise SystemExit(main())
