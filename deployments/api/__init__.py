"""The HTTP interface: one file a resource, routes and schemas together."""
