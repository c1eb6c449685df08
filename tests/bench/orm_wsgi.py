"""The product's application with its events written by `bulk_create`: a reference, and no more."""

from billing_project.wsgi import application
from tests.bench.bare_path import insert_by_orm
from usage import storing

storing.insert = insert_by_orm

__all__ = ["application"]
