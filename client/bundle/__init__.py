"""App bundles: the code that the coordinator distributes and the partner vets.

fab    a Flower app bundle (.fab), parsed and checked without running or unpacking it
trust  the one bundle that this node runs: installed read-only, and checked at every use
"""
