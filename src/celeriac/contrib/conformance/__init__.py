"""The conformance suite of engines, as a pytest plugin: see ``docs/engines.md``.

``pytest -p celeriac.contrib.conformance.plugin --celeriac-rig package.module:Class --pyargs
celeriac.contrib.conformance`` runs it over an engine of your own.
"""
