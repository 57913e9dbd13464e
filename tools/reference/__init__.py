"""The generated pages of ``docs/reference``: what they say is read from the code, and a test holds that they say it.

``python -m tools.reference`` writes them anew. One module a kind of page; `docstrings` turns docstrings into Markdown,
`installed` is the application they are made of.
"""
