"""The pages: `frame` is around all of them, one module a page."""
