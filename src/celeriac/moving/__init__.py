"""Moving messages from one store to another (``celeriac migrate``): see :class:`celeriac.moving.mover.Mover`."""
