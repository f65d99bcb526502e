"""Scale, measured: the library behind the book.

Each room is imported only when it is used, so that `import scaletut` stays cheap:
`scaletut.data`, `scaletut.models`, `scaletut.train`, `scaletut.records`, `scaletut.chapters`.
"""

__version__ = "0.1.0"
