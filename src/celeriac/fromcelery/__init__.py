"""Looks at a project that still runs on Celery, and says what changes (``migrate-from-celery``)."""
