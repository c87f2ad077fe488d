"""The command line, under Celery's import paths (``celeriac.cli``)."""
