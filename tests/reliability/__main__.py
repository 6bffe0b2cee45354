"""`python -m tests.reliability`: writes docs/reliability.md anew from docs/evidence."""

from __future__ import annotations

import sys

from tests.faults.matrix import MATRIX
from tests.reliability.kept import marked_tests, read
from tests.reliability.render import PAGE, page


def main() -> int:
    """Write the page; say which rows nobody shows."""
    tests = marked_tests()
    PAGE.write_text(page(PAGE.read_text(), read(), tests))
    bare = [row.id for row in MATRIX if row.id not in tests and not row.stand_in]
    print(f"{PAGE.name} written; rows without a test: {', '.join(bare) or 'none'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
