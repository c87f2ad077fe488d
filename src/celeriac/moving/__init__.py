"""Moving messages from one store to another (``celeriac migrate``); :mod:`celeriac.moving.mover` does it."""
