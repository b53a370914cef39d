# SPDX-License-Identifier: Apache-2.0
"""`python -m prestissimo`: the `prestissimo` command."""

from prestissimo.cli import main

if __name__ == "__main__":
    main()
