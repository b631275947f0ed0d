"""The data room: generation contexts and running text, cut into splits that never meet.

In: a source that the config names. Out: `Context`s and `Passage`s. `formats` reads files,
`splits` divides their texts, `sources` puts the two together. Invariant: the same text has the
same id and falls into the same split on any machine, and no split holds a near-copy of another's.
"""
