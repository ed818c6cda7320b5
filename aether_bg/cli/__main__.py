"""`python -m aether_bg.cli`"""

from aether_bg.cli import main

main()
