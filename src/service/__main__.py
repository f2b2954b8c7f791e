"""``python -m service``: the ``gatelodge`` command. The parent of several workers starts them so."""

from service.cli import main

raise SystemExit(main())
