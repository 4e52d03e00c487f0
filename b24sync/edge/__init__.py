"""The world: database and portal, touched and nothing more."""
