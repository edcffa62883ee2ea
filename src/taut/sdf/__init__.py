"""Signed distance fields: rays that never step through the surface of a Lipschitz net."""

from taut.sdf._trace import RayHits, normals, sphere_trace

__all__ = ["RayHits", "normals", "sphere_trace"]
