"""`python -m testbed.proxy`: the same as `testbed proxy`, without the rest of the command line."""

import sys

from testbed.proxy.main import main

sys.exit(main(sys.argv[1:]))
