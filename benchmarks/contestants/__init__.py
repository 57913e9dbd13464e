"""Who is measured. A contestant is a module that makes an application and knows how its worker is started.

To add one, write a module with the functions of :mod:`benchmarks.contestants.kern` and name it in
:data:`benchmarks.run.CONTESTANTS`.
"""
