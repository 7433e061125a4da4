"""Weights of other systems' AlexNets: a reader for each format, and the way to our layout.

A reader returns a `layouts.ForeignNetwork`; it believes nothing that the file says, and raises
`ValueError` for everything that it cannot read. `fitting` compares with a profile, `layouts` moves
axes, `parity` computes the file's logits in another way.
"""
