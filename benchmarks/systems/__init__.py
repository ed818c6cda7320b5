"""One module per system. Each has `FIGURES`: what can be measured of it, by name, in a process of its own.

A measurement is called with its size and an empty folder, and returns numbers by name. Rates are per second, latencies
in milliseconds. These modules import nothing but their own library, `systems.timing` and the standard library.
"""
