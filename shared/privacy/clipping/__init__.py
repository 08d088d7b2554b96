"""Per-user clipping, exact for any finite weights.

- `clipping`: every user's gradient norm and the clipped sum, from one backward pass.
- `layers`: the layers whose per-user gradients are known.
- `factors`: per-user gradients of one weight, formed or stored as factors.
- `outer_sums`: sums of large gradients of which none is formed.
- `linked`: the bound of weights that a user enters through friends.
- `grid`: exact sums of users' contributions, as integers.
- `probe`: compares with autograd on invented users before private data is read.
"""
